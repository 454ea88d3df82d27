"""Disk space that is kept for a rollback: to move traffic on a full disk takes a few written files.

No rollout begins without the reserve (`<home>/gateway/reserve`), and only taking traffic from a version uses it.
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
"""Routes, clusters and the note of a rollback take some 30 KB for a few lines. The rest is for what the access log
and the engines' logs write meanwhile."""

Result = TypeVar("Result")


def keep_reserve(settings: Settings) -> None:
    """Make sure that the reserve is on the disk; harmless when it is there.

    Raises:
        DiskFull: there is no space for it.
    """
    path = _file(settings)
    if not path.is_file() or path.stat().st_size < RESERVE_BYTES:
        # Not zeros, for which some file systems allocate nothing.
        write_whole(path, os.urandom(RESERVE_BYTES))


def with_reserve(settings: Settings, move: Callable[[], Result]) -> Result:
    """Take traffic from a version; on a full disk, try once more without the reserve.

    Args:
        move: may be called twice.

    Raises:
        DiskFull: the disk is full even so.
    """
    try:
        return move()
    except DiskFull:
        _file(settings).unlink(missing_ok=True)
        return move()


def _file(settings: Settings) -> Path:
    return settings.home / "gateway" / "reserve"
