"""Compare what MLflow shows of a candidate with what the pipeline signed: tags, card, metrics, parameters, files."""

from __future__ import annotations

import hashlib
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from registry.models import records, verdicts
from registry.models.reader import Reader
from registry.models.records import Version
from registry.models.verdicts import SignedVerdict
from weighbridge.errors import VerdictForged, VerdictUnsigned

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Examined(BaseModel):
    """A candidate, with what was signed of it and what somebody altered since."""

    model_config = ConfigDict(frozen=True)

    version: int
    scheme: str
    digest: str
    outcome: str
    """By the signature; empty without one."""
    sentence: str
    """The verdict, by the signature."""
    signed_at: datetime | None
    problems: tuple[str, ...]
    """What is not as it was signed; a sentence each."""


def examine(version: Version, reader: Reader) -> Examined:
    """Compare a candidate with its signed verdict.

    Args:
        version: The candidate.
        reader: Reads it from MLflow.
    """
    try:
        envelope = version.tags.get(records.SIGNED_VERDICT, "")
        signed = verdicts.read(reader.keys, version.line, version.digest, envelope, version.url)
    except (VerdictUnsigned, VerdictForged) as error:
        return _examined(version, None, [error.what])
    problems = []
    try:
        verdicts.check(version, reader.keys, reader.description(version))
    except VerdictForged as error:
        problems.append(error.what)
    return _examined(version, signed, [*problems, *_run_problems(version, signed, reader.client)])


def _run_problems(version: Version, signed: SignedVerdict, client: MlflowClient) -> list[str]:
    """Compare numbers and files of a candidate's run."""
    from mlflow.exceptions import MlflowException

    run_id = str(client.get_model_version(version.model, str(version.version)).run_id)
    data, problems = client.get_run(run_id).data, []
    for kind, shown, expected in (
        ("metric", data.metrics, signed.metrics),
        ("parameter", data.params, signed.params),
    ):
        for name in sorted({*shown, *expected}):
            if shown.get(name) != expected.get(name):
                problems.append(f"The {kind} {name} is {shown.get(name)}, was {expected.get(name)}.")
    with tempfile.TemporaryDirectory(prefix="weighbridge-") as folder:
        for name, sha256 in signed.files.items():
            try:
                content = Path(client.download_artifacts(run_id, name, folder)).read_bytes()
            except (MlflowException, OSError):
                problems.append(f"The file {name} is gone.")
                continue
            if hashlib.sha256(content).hexdigest() != sha256:
                problems.append(f"The file {name} was altered.")
    return problems


def _examined(version: Version, signed: SignedVerdict | None, problems: list[str]) -> Examined:
    return Examined(
        version=version.version,
        scheme=version.scheme,
        digest=version.digest,
        outcome=signed.outcome if signed else "",
        sentence=signed.sentence if signed else "",
        signed_at=signed.signed_at if signed else None,
        problems=tuple(problems),
    )
