"""Releases that were weighed while MLflow did not answer: kept on the disk, and recorded when it does.

`<home>/journal/<line>/<key>/` holds `record.json` and the record's files. It appears whole or not at all, and goes when
MLflow has all of it; recording the same key again finds what is there, so a kill between the two records nothing twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from registry.models.records import RecordedRelease, ReleaseRecord
from registry.store.artifact import sync
from weighbridge.settings import Settings, load_settings

if TYPE_CHECKING:
    from registry.models.registry import Registry

FOLDER = "journal"
"""Below the installation's home."""
RECORD, FILES = "record.json", "files"


class Outbox:
    """What waits to be recorded.

    Args:
        folder: where it lies; the installation's by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or load_settings().home / FOLDER

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The outbox of an installation."""
        return cls(settings.home / FOLDER)

    def add(self, record: ReleaseRecord) -> None:
        """Write a release down; it is on the disk when this returns.

        Raises:
            OSError: it cannot be written.
        """
        place = self._place(record)
        draft = place.with_name(f".{place.name}")
        for folder in (draft, place):
            shutil.rmtree(folder, ignore_errors=True)
        for number, candidate in enumerate(record.candidates):
            lay_out(candidate.files, draft / FILES / str(number))
        bare = tuple(one.model_copy(update={"files": {}}) for one in record.candidates)
        draft.mkdir(parents=True, exist_ok=True)
        (draft / RECORD).write_text(record.model_copy(update={"candidates": bare}).model_dump_json(indent=1))
        sync(draft)
        draft.rename(place)

    def remove(self, record: ReleaseRecord) -> None:
        """MLflow has it."""
        shutil.rmtree(self._place(record), ignore_errors=True)

    def waiting(self, line: str) -> list[ReleaseRecord]:
        """A line's releases that MLflow does not have, oldest first."""
        places = sorted(self._folder.glob(f"{line}/[!.]*/{RECORD}"), key=lambda path: path.stat().st_mtime)
        return [_read(place) for place in places]

    def deliver(
        self, registry: Registry, line: str, tell: Callable[[str], None] = lambda _: None
    ) -> list[RecordedRelease]:
        """Give MLflow what waits.

        Args:
            registry: where to.
            line: whose.
            tell: called with a sentence for each.

        Raises:
            StackDown, RegistryFailed: what is not recorded yet waits on.
        """
        done = []
        for record in self.waiting(line):
            done.append(registry.record_release(record))
            self.remove(record)
            tell(f"MLflow has the release of {record.repo}@{record.commit[:12]} now, which was weighed without it")
        return done

    def _place(self, record: ReleaseRecord) -> Path:
        return self._folder / record.line / record.key


def lay_out(files: dict[str, str | bytes | Path], folder: Path) -> None:
    """Write a record's files into a folder; one that is on the disk already is copied."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content)


def _read(path: Path) -> ReleaseRecord:
    record = ReleaseRecord.model_validate_json(path.read_bytes())
    candidates = []
    for number, candidate in enumerate(record.candidates):
        folder = path.parent / FILES / str(number)
        files = {one.relative_to(folder).as_posix(): one for one in sorted(folder.rglob("*")) if one.is_file()}
        candidates.append(candidate.model_copy(update={"files": files}))
    return record.model_copy(update={"candidates": tuple(candidates)})
