"""The mark of an engine that runs only to be scored: a file that every scoring run keeps locked.

A kernel's lock ends with its process. So an engine that a killed or cancelled run has left is on trial no more, and the
line's next promotion stops it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def held(mark: Path) -> Iterator[None]:
    """Keep an engine on trial; several may at once.

    Args:
        mark: made if missing. Its folder exists.
    """
    with mark.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def is_held(mark: Path) -> bool:
    """True if there is a mark, and a process that lives keeps it."""
    try:
        with mark.open("rb") as file:
            return not _free(file)
    except FileNotFoundError:
        return False


def _free(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
