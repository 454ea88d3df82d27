"""The gateway's logs on disk: rotated by themselves, compressed later, and followed without losing a line.

`gateway-access.log` is what Envoy writes; `gateway-access.log.20261201T062800.000000Z` was renamed then, and gets `.gz`
once nobody reads it along any more. Envoy goes on writing to a renamed file until it has been told.
"""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BufferedReader
from pathlib import Path
from typing import IO

STAMP = "%Y%m%dT%H%M%S.%fZ"
PLAIN_SECONDS = 3600.0
"""How long a rotated file stays as it is: whoever follows the log reads within seconds, and a rollout's history goes
back a quarter of an hour."""
LATE_SECONDS = 30.0
"""How long a follower still looks into a renamed file; Envoy writes every second."""


def rotated(log: Path) -> list[Path]:
    """Rotated files of a log, oldest first; of one that is just being compressed, the plain one."""
    found = {path.name.removesuffix(".gz"): path for path in sorted(log.parent.glob(f"{log.name}.*"), reverse=True)}
    return [path for name, path in sorted(found.items()) if _rotated_at(log, log.parent / name)]


def open_log(path: Path) -> IO[bytes]:
    """Open a log's file, compressed meanwhile or not.

    Raises:
        FileNotFoundError: it is gone.
    """
    if path.suffix != ".gz":
        with suppress(FileNotFoundError):
            return path.open("rb")
        path = path.with_name(f"{path.name}.gz")
    return gzip.open(path, "rb")  # type: ignore[return-value]


def rotate(log: Path, largest_bytes: int, longest: timedelta, reopen: Callable[[], None]) -> Path | None:
    """Rename a log that is too large or too old, and have a new one begun.

    Args:
        log: the file; it need not exist.
        largest_bytes: size from which on it is renamed.
        longest: time after which it is renamed, if anything is in it.
        reopen: tells Envoy to open its logs again.

    Returns:
        The renamed file; None if nothing was due.
    """
    try:
        found = log.stat()
    except FileNotFoundError:
        return None
    last = max((_rotated_at(log, path) or datetime.min for path in rotated(log)), default=None)
    begun = last.replace(tzinfo=UTC) if last else _first_time(log)
    too_old = found.st_size > 0 and begun is not None and datetime.now(UTC) - begun >= longest
    if found.st_size < largest_bytes and not too_old:
        return None
    to = log.with_name(f"{log.name}.{datetime.now(UTC).strftime(STAMP)}")
    log.rename(to)
    reopen()
    return to


def compress(log: Path) -> None:
    """Compress the rotated files that nobody follows any more; a kill leaves the plain one."""
    for path in rotated(log):
        if path.suffix != ".gz" and time.time() - path.stat().st_mtime >= PLAIN_SECONDS:
            part, to = path.with_name(f".{path.name}.part"), path.with_name(f"{path.name}.gz")
            with path.open("rb") as plain, part.open("wb") as packed:
                with gzip.GzipFile(fileobj=packed, mode="wb") as writer:
                    shutil.copyfileobj(plain, writer, 2**20)
                packed.flush()
                os.fsync(packed.fileno())
            part.replace(to)
            path.unlink()


def last_lines(log: Path, most_bytes: int) -> Iterator[bytes]:
    """The last lines of a log, oldest first; those of the file before it too, if it was rotated within the hour.

    Args:
        log: the file; it need not exist.
        most_bytes: of each of the two files.
    """
    for path in (*[path for path in rotated(log) if path.suffix != ".gz"][-1:], log):
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - most_bytes))
            yield from file


def expired(log: Path, kept: timedelta) -> list[Path]:
    """Rotated files that are older than they are kept."""
    oldest = datetime.now(UTC).replace(tzinfo=None) - kept
    return [path for path in rotated(log) if (_rotated_at(log, path) or datetime.max) < oldest]


def _rotated_at(log: Path, path: Path) -> datetime | None:
    """When a file was rotated, UTC; None for a file of another name, such as one of a tool of yours."""
    with suppress(ValueError):
        return datetime.strptime(path.name.removeprefix(f"{log.name}.").removesuffix(".gz"), STAMP)
    return None


def _first_time(log: Path) -> datetime | None:
    """When the file of an older Weighbridge, which never rotated, was begun: as far as the file system knows."""
    found = log.stat()
    return datetime.fromtimestamp(min(found.st_mtime, found.st_ctime), UTC)


@dataclass
class _Open:
    file: BufferedReader
    inode: tuple[int, int]
    part: bytes = b""
    last_new: float = 0.0

    def lines(self) -> list[bytes]:
        """Whole lines that were written since the last call."""
        if os.fstat(self.file.fileno()).st_size < self.file.tell():
            # Emptied in place, by a tool of yours.
            self.file.seek(0)
            self.part = b""
        text = self.file.read()
        if text:
            self.last_new = time.monotonic()
        *lines, self.part = (self.part + text).split(b"\n")
        return lines


class LogFollower:
    """Lines of a log from now on, through any number of rotations between two reads.

    Args:
        log: the file; it need not exist yet.
    """

    def __init__(self, log: Path) -> None:
        self._log, self._open = log, list[_Open]()
        self._last = max((path.name for path in rotated(log)), default="")
        if current := self._opened(log):
            current.file.seek(0, os.SEEK_END)

    def read(self) -> Iterator[bytes]:
        """The lines that were written since the last call."""
        for path in rotated(self._log):
            name = path.name.removesuffix(".gz")
            if name > self._last.removesuffix(".gz"):
                self._last = name
                self._opened(path)
        current = self._opened(self._log)
        for each in list(self._open):
            yield from each.lines()
            if each is not current and time.monotonic() - each.last_new > LATE_SECONDS:
                each.file.close()
                self._open.remove(each)

    def _opened(self, path: Path) -> _Open | None:
        """The open file of this path, whatever its name was when it was opened."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        found = os.fstat(file.fileno())
        inode = (found.st_dev, found.st_ino)
        for known in self._open:
            # The number of a file that is open is not given to another one.
            if known.inode == inode:
                file.close()
                return known
        self._open.append(_Open(file, inode, last_new=time.monotonic()))
        return self._open[-1]
