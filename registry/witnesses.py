"""Witnesses of the audit log: places outside of its file where its head is noted, so that a cut or rewritten log shows.

Two are known. MLflow's database has a tag with number and hash of the newest entry, on an experiment of its own. A
folder or bucket (`WEIGHBRIDGE_AUDIT_WITNESS_URL`) gets an object for each, named `NUMBER-HASH`. A bucket with object
lock, or one in which the account may create and not delete, keeps them from whoever takes the machine.

MLflow's server notes new heads, within a second of each entry (`registry/server/noting.py`). So an entry waits for no
network, and a witness that did not answer is caught up with. Whoever verifies reads here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from registry.audit import Head
from weighbridge.errors import WitnessUnreachable
from weighbridge.settings import Settings

EXPERIMENT, TAG = "weighbridge-audit", "weighbridge.audit.head"
NAME = re.compile(r"([0-9]{1,12})-([0-9a-f]{64})")
SECONDS = 10
"""Longest wait for a bucket."""


class Witness(Protocol):
    """A place where heads were noted."""

    name: str

    def heads(self) -> list[Head]:
        """Return what was noted, newest last.

        Raises:
            WitnessUnreachable: It does not answer.
        """


def witnesses_of(settings: Settings) -> list[Witness]:
    """Return the witnesses of an installation that have an address."""
    found: list[Witness] = [MlflowTag(settings)]
    if settings.audit_witness_url:
        found.append(Folder(settings.audit_witness_url))
    return found


class Answer(BaseModel):
    """What a witness said."""

    model_config = ConfigDict(frozen=True)

    witness: str
    heads: tuple[Head, ...] = ()
    problem: str = ""
    """Why it said nothing, such as "does not answer"; empty if it did."""

    @property
    def newest(self) -> int:
        """Number of the newest entry that it noted; 0 for none."""
        return self.heads[-1].number if self.heads else 0


def answers_of(settings: Settings) -> list[Answer]:
    """Ask all witnesses of an installation; one that does not answer is no error here."""
    answers = []
    for witness in witnesses_of(settings):
        try:
            answers.append(Answer(witness=witness.name, heads=tuple(witness.heads())))
        except WitnessUnreachable as error:
            answers.append(Answer(witness=witness.name, problem=error.what.removeprefix(f"{witness.name} ")))
    return answers


class MlflowTag:
    """The tag in MLflow's database, which is read without MLflow: it may be down, or refuse this account.

    Args:
        settings: Settings of the installation.
    """

    name = "MLflow"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def heads(self) -> list[Head]:
        """See the protocol."""
        from sqlalchemy import create_engine, text
        from sqlalchemy.exc import SQLAlchemyError

        settings = self._settings
        if not settings.mlflow_backend_uri and not (settings.home / "mlflow" / "mlflow.db").is_file():
            return []
        query = text(
            "select t.value from experiment_tags t join experiments e on e.experiment_id = t.experiment_id"
            " where e.name = :name and t.key = :key"
        )
        engine = create_engine(settings.mlflow_backend)
        try:
            with engine.connect() as connection:
                values = [str(row[0]) for row in connection.execute(query, {"name": EXPERIMENT, "key": TAG})]
        except SQLAlchemyError as error:
            raise _unreachable(self.name, error) from None
        finally:
            engine.dispose()
        return parse(value.replace(" ", "-") for value in values)


class Folder:
    """A folder or bucket with one object a head.

    Args:
        url: An absolute path, or an address that fsspec knows, such as `s3://bucket/prefix`.
    """

    def __init__(self, url: str) -> None:
        self.name = self._url = url.rstrip("/")

    def heads(self) -> list[Head]:
        """See the protocol."""
        try:
            files, place = self._place()
            if not files.exists(place):
                return []
            return parse(Path(str(name)).name for name in files.ls(place, detail=False))
        # Every file system of fsspec has errors of its own.
        except Exception as error:
            raise _unreachable(self.name, error) from None

    def note(self, head: Head) -> None:
        """Note a head; one that is there already stays as it is.

        Raises:
            WitnessUnreachable: It does not answer, or refuses.
        """
        try:
            files, place = self._place()
            target = f"{place}/{head.number:012d}-{head.hash}"
            if not files.exists(target):
                files.makedirs(place, exist_ok=True)
                files.pipe_file(target, b"")
        except Exception as error:
            raise _unreachable(self.name, error) from None

    def _place(self) -> tuple[Any, str]:
        import fsspec

        options: dict[str, Any] = {}
        if self._url.startswith("s3://"):
            waits = {"connect_timeout": SECONDS, "read_timeout": SECONDS, "retries": {"max_attempts": 1}}
            options = {"config_kwargs": waits, "use_listings_cache": False}
        files, place = fsspec.core.url_to_fs(self._url, **options)
        return files, str(place)


def parse(names: Any) -> list[Head]:
    """Read heads from names of the form `NUMBER-HASH`, in the order of their numbers; other names do not count."""
    found = [NAME.fullmatch(name) for name in names]
    heads = [Head(number=int(match[1]), hash=match[2]) for match in found if match and int(match[1])]
    return sorted(heads, key=lambda head: head.number)


def _unreachable(name: str, error: Exception) -> WitnessUnreachable:
    return WitnessUnreachable(
        f"{name} does not answer: {type(error).__name__}.",
        "Check the address in WEIGHBRIDGE_AUDIT_WITNESS_URL, the network and the account's permissions.",
        where=name,
    )
