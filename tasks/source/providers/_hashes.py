"""Hashes of a source's files by their stamps, kept in `<home>/sources/`, so that an unchanged file is not read again.

The stamp of a file on a disk is its inode, size, mtime and ctime; that of an object its ETag, size and time. A file
that was written within `SETTLED_SECONDS` before it was read is read again next time: two writes within one tick of the
clock have the same times. What a stamp does not show (a clock set back by root, a server that keeps an ETag) is found
at the copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weighbridge.documents import read_bytes
from weighbridge.errors import DocumentInvalid
from weighbridge.files import write_whole

FOLDER = "sources"
"""Below the installation's home."""
SETTLED_SECONDS = 2.0
MAX_BYTES = 32 * 2**20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Stamp(BaseModel):
    """What tells whether a file may have changed, without reading it."""

    model_config = ConfigDict(frozen=True)

    key: tuple[str | int, ...]
    written_at: float = 0.0
    """Newest of its times, seconds since 1970; 0 where the source's times count no changes."""


class _Known(BaseModel):
    model_config = ConfigDict(frozen=True)

    stamp: Stamp
    sha256: Sha256


class _Kept(BaseModel):
    repo: str
    files: dict[str, _Known]


class KnownHashes:
    """The hashes of one source's files.

    Args:
        home: Of the installation.
        repo: The source's address.
    """

    def __init__(self, home: Path, repo: str) -> None:
        self._repo = repo
        self._path = home / FOLDER / f"{hashlib.sha256(repo.encode()).hexdigest()[:32]}.json"

    def find(self, path: str, stamp: Stamp) -> str | None:
        """Find the hash of a file that has not changed; None if it must be read."""
        known = self._read().get(path)
        return known.sha256 if known and known.stamp == stamp else None

    def remember(self, found: Mapping[str, tuple[Stamp, str]], began: datetime, present: Collection[str]) -> None:
        """Keep new hashes, and drop those of files that are gone.

        Args:
            found: Stamp and hash by path.
            began: When the reading began.
            present: Paths of all files that there are.
        """
        settled = began.timestamp() - SETTLED_SECONDS
        new = {
            path: _Known(stamp=stamp, sha256=sha256)
            for path, (stamp, sha256) in found.items()
            if stamp.written_at < settled
        }
        known = {path: entry for path, entry in self._read().items() if path in present and path not in found}
        self._write({**known, **new})

    def forget(self, path: str) -> None:
        """Drop the hash of a file."""
        self._write({name: entry for name, entry in self._read().items() if name != path})

    def _read(self) -> dict[str, _Known]:
        try:
            kept = _Kept.model_validate_json(read_bytes(self._path, MAX_BYTES))
        except (DocumentInvalid, ValidationError, FileNotFoundError):
            return {}  # missing or damaged: every file is read again
        return kept.files if kept.repo == self._repo else {}

    def _write(self, files: Mapping[str, _Known]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, _Kept(repo=self._repo, files=dict(files)).model_dump_json())
