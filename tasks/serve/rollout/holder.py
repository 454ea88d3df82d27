"""Who moves a line's traffic, and whether that process is alive, frozen or gone; told without taking the lock."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from weighbridge.errors import DiskFull
from weighbridge.files import write_whole
from weighbridge.settings import Settings

SILENT_SECONDS = 10.0
"""A holder gives a sign of life each second, on cores that are overbooked too."""
SAME_START_SECONDS = 30.0
"""The start of a process is known by the machine's clock, which may have been set meanwhile."""
STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


class Holder(BaseModel):
    """The process that holds a line's traffic lock, or held it last."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started_at: float
    """Start of the process, in seconds since 1970: a number alone is used again."""
    run: str = ""
    """Id of its flow run at Prefect."""
    held: bool = True
    """False once it has released the lock."""
    last_sign_at: float = 0.0
    """Its last sign of life, in seconds since 1970."""

    @property
    def last_sign(self) -> datetime:
        """The same as a time."""
        return datetime.fromtimestamp(self.last_sign_at, UTC)

    @property
    def silent_seconds(self) -> float:
        """Time since the last sign of life."""
        return max(0.0, time.time() - self.last_sign_at)

    @property
    def moves_traffic(self) -> bool:
        """True if it holds the lock and lives, frozen or not."""
        return self.held and self._process() is not None

    def is_frozen(self, silence_seconds: float = SILENT_SECONDS) -> bool:
        """Return whether it holds the lock and does not run.

        Args:
            silence_seconds: it counts as frozen if it gave no sign of life for so long, and a process that the system
                has stopped after a tenth of that.
        """
        if not self.held:
            return False
        silent = self.silent_seconds
        return silent > silence_seconds or (silent > silence_seconds / 10 and self._is_stopped())

    def kill(self) -> bool:
        """Kill it; False if there is no such process, or it is another user's."""
        process = self._process()
        try:
            if process is None:
                return False
            process.kill()
        except psutil.Error:
            return False
        return True

    def _is_stopped(self) -> bool:
        process = self._process()
        try:
            return process is not None and process.status() in STOPPED
        except psutil.Error:
            return False

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < SAME_START_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def read_holder(settings: Settings, line: str) -> Holder | None:
    """Read who holds a line's traffic lock, or held it last; None if nobody did, or that could not be noted."""
    path = record_file(settings, line)
    try:
        last_sign_at = path.stat().st_mtime
        return Holder.model_validate_json(path.read_bytes()).model_copy(update={"last_sign_at": last_sign_at})
    except (OSError, ValidationError):
        return None


def note_holder(settings: Settings, line: str, run: str) -> None:
    """Note that this process holds the lock; on a full disk nothing is noted, and nothing fails."""
    started_at = psutil.Process().create_time()
    _write(settings, line, Holder(pid=os.getpid(), started_at=started_at, run=run))


def note_release(settings: Settings, line: str) -> None:
    """Note that this process released the lock."""
    if (holder := read_holder(settings, line)) is not None:
        _write(settings, line, holder.model_copy(update={"held": False}))


def forget_holder(settings: Settings, line: str) -> None:
    """Forget who moved the traffic of a line that is retired."""
    record_file(settings, line).unlink(missing_ok=True)


def record_file(settings: Settings, line: str) -> Path:
    """The file that names the holder; its time of change is the last sign of life."""
    return settings.home / "gateway" / f"{line}.traffic.json"


def _write(settings: Settings, line: str, holder: Holder) -> None:
    path = record_file(settings, line)
    try:
        write_whole(path, holder.model_dump_json(exclude={"last_sign_at"}))
    except (DiskFull, OSError):
        # A record of another holder would be worse than none.
        with suppress(OSError):
            path.unlink(missing_ok=True)
