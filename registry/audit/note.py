"""Notes beside the audit log: its head, and changes that are about to be made.

`head.json` says how far the log was when it was last written, and the state of its file then. If that state is
unchanged, nobody has touched the file since, and an entry is appended without reading it. Otherwise all of it is
verified first. A log that has lost its end, or is gone, does not contain the noted head.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weighbridge.files import write_whole

HEAD, INTENDED = "head.json", "intended"
LONGEST_NOTE = 100_000
"""Bytes of a note that are read."""


class Head(BaseModel):
    """Number and hash of the log's last entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")


class NotedHead(Head):
    """The head, and the state of the file after it was written."""

    size: int
    inode: int
    modified_ns: int
    changed_ns: int
    """The time of the last change of the file's inode, which no program can set."""

    @classmethod
    def of(cls, number: int, hash_: str, state: os.stat_result) -> Self:
        """Note an entry and the file's state after it."""
        return cls(
            number=number,
            hash=hash_,
            size=state.st_size,
            inode=state.st_ino,
            modified_ns=state.st_mtime_ns,
            changed_ns=state.st_ctime_ns,
        )

    def is_of(self, state: os.stat_result) -> bool:
        """Return whether a file is as it was when it was noted."""
        found = (state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)
        return found == (self.size, self.inode, self.modified_ns, self.changed_ns)


def read_head(folder: Path) -> NotedHead | None:
    """Read the noted head; None if there is none, as before the first entry.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        with (folder / HEAD).open("rb") as file:
            return NotedHead.model_validate_json(file.read(LONGEST_NOTE))
    except FileNotFoundError:
        return None
    except ValidationError:
        raise ValueError(f"{HEAD} cannot be read") from None


class Intent(BaseModel):
    """A change that is about to be made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: str
    line: str
    version: int | None
    what: str
    reason: str
    who: str
    pid: int
    started: float
    """When the process was started, since its number may be given to another one."""

    @property
    def is_under_way(self) -> bool:
        """Whether the process that noted it still runs."""
        try:
            return bool(psutil.Process(self.pid).create_time() == self.started)
        except psutil.Error:
            return False


class Intents:
    """Notes of changes that are about to be made, one file each.

    Args:
        folder: Folder of the audit log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / INTENDED

    def note(self, action: str, line: str, version: int | None, what: str, reason: str, who: str) -> Path:
        """Write a note; it is synced when this returns.

        Raises:
            DiskFull, OSError: It cannot be written, and so the change must not be made.
        """
        pid = os.getpid()
        intent = Intent(
            action=action,
            line=line,
            version=version,
            what=what,
            reason=reason,
            who=who,
            pid=pid,
            started=psutil.Process(pid).create_time(),
        )
        path = self._folder / f"{pid}-{secrets.token_hex(8)}.json"
        write_whole(path, intent.model_dump_json())
        return path

    def left_behind(self) -> Iterator[tuple[Path, Intent | None]]:
        """Iterate over the notes of processes that have ended; None for one that cannot be read."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                with path.open("rb") as file:
                    intent = Intent.model_validate_json(file.read(LONGEST_NOTE))
            except FileNotFoundError:
                continue
            except (OSError, ValidationError):
                yield path, None
                continue
            if not intent.is_under_way:
                yield path, intent
