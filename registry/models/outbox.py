"""The outbox: releases that were weighed while MLflow did not answer, kept on disk until MLflow has them.

`<home>/journal/<line>/<key>/` holds `record.json` and the record's files. The folder appears whole or not at all, and
is removed when MLflow has everything. Recording the same key again finds the existing record, so a kill between
recording and removing records nothing twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Self

from registry.models.recorder import Recorder
from registry.models.records import RecordedRelease, ReleaseRecord, lay_out
from registry.store.artifact import sync
from weighbridge.errors import OutboxDamaged
from weighbridge.files import naming_a_full_disk
from weighbridge.settings import Settings, load_settings

FOLDER = "journal"
"""Below the installation's home."""
RECORD, FILES = "record.json", "files"


class Outbox:
    """Releases that wait to be recorded.

    Args:
        folder: Folder of the outbox; by default that of this process's installation.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or load_settings().home / FOLDER

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Open the outbox of an installation."""
        return cls(settings.home / FOLDER)

    def add(self, record: ReleaseRecord) -> None:
        """Write a release to disk; it is synced when this returns.

        Raises:
            DiskFull: The disk is full. An earlier record of the same release stays.
            OSError: It cannot be written.
        """
        target = self._folder_of(record)
        draft = target.with_name(f".{target.name}")
        shutil.rmtree(draft, ignore_errors=True)
        without_files = tuple(candidate.model_copy(update={"files": {}}) for candidate in record.candidates)
        text = record.model_copy(update={"candidates": without_files}).model_dump_json(indent=1)
        with naming_a_full_disk(target):
            try:
                draft.mkdir(parents=True)
                for number, candidate in enumerate(record.candidates):
                    lay_out(candidate.files, draft / FILES / str(number))
                (draft / RECORD).write_text(text)
                sync(draft)
                # An earlier one stays until this one is whole.
                shutil.rmtree(target, ignore_errors=True)
                draft.rename(target)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise

    def remove(self, record: ReleaseRecord) -> None:
        """Remove a release that MLflow has."""
        shutil.rmtree(self._folder_of(record), ignore_errors=True)

    def waiting(self, line: str) -> list[ReleaseRecord]:
        """List a line's releases that MLflow does not have, oldest first.

        Raises:
            OutboxDamaged: A record cannot be read.
        """
        paths = sorted(self._folder.glob(f"{line}/[!.]*/{RECORD}"), key=lambda path: path.stat().st_mtime)
        return [_read(path) for path in paths]

    def deliver(
        self, recorder: Recorder, line: str, report: Callable[[str], None] = lambda _: None
    ) -> list[RecordedRelease]:
        """Record everything of a line that waits.

        Args:
            recorder: Records it in MLflow.
            line: Name of the line.
            report: Called with a sentence for each release.

        Raises:
            StackDown, RegistryFailed: Releases that are not recorded yet stay in the outbox.
        """
        recorded = []
        for record in self.waiting(line):
            recorded.append(recorder.record_release(record))
            self.remove(record)
            report(f"MLflow now has the release of {record.repo}@{record.commit[:12]}, which was weighed without it")
        return recorded

    def _folder_of(self, record: ReleaseRecord) -> Path:
        return self._folder / record.line / record.key


def _read(path: Path) -> ReleaseRecord:
    try:
        record = ReleaseRecord.model_validate_json(path.read_bytes())
    except ValueError:
        raise OutboxDamaged(
            f"The outbox's record {path.parent.name} cannot be read.",
            "Move its folder away, and run `weighbridge release LINE` again: the cache has what was computed.",
            where=str(path),
        ) from None
    candidates = []
    for number, candidate in enumerate(record.candidates):
        folder = path.parent / FILES / str(number)
        files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
        candidates.append(candidate.model_copy(update={"files": files}))
    return record.model_copy(update={"candidates": tuple(candidates)})
