"""One mover of a line's traffic at a time, and what is known of the one that moves it.

The lock is the operating system's: it is released with the process that holds it, also by kill -9. A process that is
stopped (a suspended terminal, SIGSTOP, a frozen container) keeps it and cannot give way. Another process then takes
the lock over: it removes the lock's file and locks a new one. The old holder compares the file before each move
(`require_held`, which the gateway calls while no other process can write the routes), and stops once it wakes.

Beside the lock, `<line>.traffic.json` names the holder; its time of change is the holder's last sign of life.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.serve.gateway.routes import RoutesFile
from tasks.serve.rollout.holder import Holder, note_holder, note_release, read_holder, record_file
from weighbridge.errors import GatewayFailed, RolloutBusy, TrafficTakenOver
from weighbridge.settings import Settings
from weighbridge.units import duration

POLL_SECONDS = 0.1
BEAT_SECONDS = 1.0
URGENT_SILENCE_SECONDS = 10.0
"""A holder without a sign of life for so long is taken for frozen by a rollback."""
SILENCE_SECONDS = 60.0
"""The same for everything else: a terminal that is suspended for a moment keeps its rollout."""
GUARD_SECONDS = 2.0
ROUTES_SECONDS = 3.0
"""How long the routes may be locked after a takeover before the frozen process that may lock them is killed."""

Report = Callable[[str], None]

_held: dict[Path, TrafficLock] = {}
"""Locks that this process holds, or held when another process took them over."""


def say_nothing(sentence: str) -> None:
    """Ignore a report."""


class TrafficLock:
    """The right to move a line's traffic; a rollback may ask its holder to give way.

    Args:
        settings: the installation.
        line: the line's name.
    """

    def __init__(self, settings: Settings, line: str) -> None:
        folder = settings.home / "gateway"
        folder.mkdir(parents=True, exist_ok=True)
        self._settings, self._line = settings, line
        self._give_way = folder / f"{line}.give-way"
        self._path = _lock_file(settings, line)
        self._lock, self._guard = FileLock(self._path), FileLock(folder / f"{line}.traffic.guard")
        self._identity: tuple[int, int] | None = None
        self._ended = threading.Event()

    def acquire(
        self, wait_seconds: float, urgent: bool = False, run: str = "", report: Report = say_nothing
    ) -> TrafficLock:
        """Take the lock, also from a process that is frozen.

        Args:
            wait_seconds: how long to wait for it.
            urgent: ask the holder to put its traffic back and release the lock.
            run: id of the flow run that takes it; empty outside of one.
            report: called with a sentence if the lock was taken over.

        Raises:
            RolloutBusy: another process still holds it.
        """
        deadline = time.monotonic() + wait_seconds
        while not self._take(URGENT_SILENCE_SECONDS if urgent else SILENCE_SECONDS, run, report):
            if urgent:
                self._give_way.touch()
            if time.monotonic() >= deadline:
                raise RolloutBusy(
                    f"Another process is moving the traffic of {self._line}.",
                    "Wait for it (`weighbridge status` shows the weights), or run "
                    f"`weighbridge rollback {self._line}` to make it give way.",
                )
            time.sleep(POLL_SECONDS)
        self._give_way.unlink(missing_ok=True)
        return self

    @property
    def asked_to_give_way(self) -> bool:
        """True if a rollback waits for this lock."""
        return self._give_way.exists()

    def require_held(self) -> None:
        """Check that no other process took the lock over while this one was frozen.

        Raises:
            TrafficTakenOver: one did; nothing may be moved or recorded any more.
        """
        if _identity_of(self._path) != self._identity:
            raise TrafficTakenOver(
                f"Another process took over the traffic of {self._line} while this one was frozen: its process was "
                "stopped, or its machine slept.",
                f"`weighbridge status` shows what serves; `weighbridge promote {self._line}` goes on towards what was "
                "approved, if that is still wanted.",
            )

    def __enter__(self) -> TrafficLock:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        _held.pop(self._path, None)
        if _identity_of(self._path) == self._identity:
            note_release(self._settings, self._line)
        self._lock.release()

    def _take(self, silence_seconds: float, run: str, report: Report) -> bool:
        guarded = False
        # A guard that is frozen itself is passed by: it spares a mover an error, and `require_held` keeps traffic safe.
        with suppress(Timeout):
            self._guard.acquire(timeout=GUARD_SECONDS)
            guarded = True
        try:
            frozen = None
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                frozen = read_holder(self._settings, self._line)
                if frozen is None or not frozen.is_frozen(silence_seconds):
                    return False
                self._path.unlink(missing_ok=True)
                self._lock.acquire(timeout=0)
            self._identity = _identity_of(self._path)
            note_holder(self._settings, self._line, run)
        except Timeout:
            # Another process took it over in the same moment.
            return False
        finally:
            if guarded:
                self._guard.release()
        _held[self._path] = self
        self._ended.clear()
        threading.Thread(target=self._beat, name=f"traffic-lock-of-{self._line}", daemon=True).start()
        if frozen is not None:
            report(
                f"{self._line}: process {frozen.pid} was moving traffic, and has been frozen for "
                f"{duration(frozen.silent_seconds)}; its right to do so was taken over"
            )
            self._free_routes(frozen, report)
        return True

    def _beat(self) -> None:
        """Give a sign of life each second, as long as this process runs."""
        record = record_file(self._settings, self._line)
        while not self._ended.wait(BEAT_SECONDS) and _identity_of(self._path) == self._identity:
            with suppress(OSError):
                os.utime(record)

    def _free_routes(self, frozen: Holder, report: Report) -> None:
        """Kill a holder that froze while it wrote the routes: nothing else frees them."""
        try:
            with RoutesFile(self._settings.home / "gateway").writing(ROUTES_SECONDS):
                pass
        except GatewayFailed:
            if frozen.kill():
                report(f"{self._line}: process {frozen.pid} froze while it wrote the gateway's routes, and was killed")


def require_held(settings: Settings, line: str) -> None:
    """Check that this process may go on moving a line's traffic; harmless in one that never took the lock.

    Raises:
        TrafficTakenOver: another process took the lock over while this one was frozen.
    """
    if (lock := _held.get(_lock_file(settings, line))) is not None:
        lock.require_held()


def _lock_file(settings: Settings, line: str) -> Path:
    return settings.home / "gateway" / f"{line}.traffic.lock"


def _identity_of(path: Path) -> tuple[int, int] | None:
    """Which file a path names; the number of one that is open or locked is not used again."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
