"""Who uses an artifact now: whoever was given its path keeps `clean` from removing it until their process ends.

One lock an artifact, a file of the line's folder `.locks`. `Store.path` takes it shared, and the process keeps it.
`clean` takes it alone, asks again what is used, removes, and lets go. So a use that began before is seen, and one that
begins meanwhile waits and finds the artifact gone. The kernel ends a dead process's locks.

The file's mtime is the time of the last use.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a store that this process may only read, and so never clean."""

_held: dict[Path, int] = {}
"""Descriptors of the locks that this process shares, by file."""
_taking = Lock()


def share(file: Path) -> None:
    """Share an artifact's lock until this process ends, after waiting for a `clean` that has it alone.

    Args:
        file: The lock's. Its folder is made if it is missing.
    """
    with _taking:
        if file not in _held:
            descriptor = _open(file)
            if descriptor is None:
                return
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _held[file] = descriptor
        os.utime(_held[file])


@contextmanager
def shared(file: Path) -> Iterator[None]:
    """Share an artifact's lock for the block only. That is no use of it: the time of the last one stays."""
    descriptor = _open(file)
    try:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def exclusive(file: Path) -> Iterator[bool]:
    """Take an artifact's lock for the block, and yield whether nobody else has it. Nobody is waited for."""
    descriptor = _new_or_old(file)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def last_used(file: Path) -> float:
    """Return when an artifact's path was last given out, seconds since 1970; 0 if it never was."""
    try:
        return os.lstat(file).st_mtime
    except OSError:
        return 0.0


def _open(file: Path) -> int | None:
    """Open a lock's file; None in a store that this process may only read."""
    try:
        return _new_or_old(file)
    except OSError as error:
        if error.errno in READ_ONLY:
            return None
        raise


def _new_or_old(file: Path) -> int:
    """Open a lock's file. A new one says that nobody has used the artifact yet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    never_used = not os.path.lexists(file)
    descriptor = os.open(file, OPEN, 0o600)
    if never_used:
        os.utime(descriptor, (0, 0))
    return descriptor
