"""Room on the disk that is kept for the way back: to move traffic on a full disk takes a few written files.

A rollout does not begin without it (`<home>/gateway/reserve`), and only what takes traffic from a version gives it up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from weighbridge.errors import DiskFull
from weighbridge.files import write_whole
from weighbridge.settings import Settings

RESERVE_BYTES = 2 * 2**20
"""Routes, clusters and the note of a rollback take some 30 KB for a few lines; the rest is
for what the access log and the engines' logs take of it meanwhile."""

Result = TypeVar("Result")


def keep_reserve(settings: Settings) -> None:
    """Have the reserve on the disk; harmless when it is there.

    Raises:
        DiskFull: there is no room for it.
    """
    path = _file(settings)
    if not path.is_file() or path.stat().st_size < RESERVE_BYTES:
        # Not zeros, which some file systems keep in no room at all.
        write_whole(path, os.urandom(RESERVE_BYTES))


def with_reserve(settings: Settings, move: Callable[[], Result]) -> Result:
    """Do what takes traffic from a version; where the disk is full, once more without the reserve.

    Args:
        move: may be done twice.

    Raises:
        DiskFull: even so.
    """
    try:
        return move()
    except DiskFull:
        _file(settings).unlink(missing_ok=True)
        return move()


def _file(settings: Settings) -> Path:
    return settings.home / "gateway" / "reserve"
