"""One mover of a line's traffic at a time."""

from __future__ import annotations

from filelock import FileLock, Timeout

from weighbridge.errors import RolloutBusy
from weighbridge.settings import Settings


class TrafficLock:
    """The right to move a line's traffic; a rollback may ask its holder to give way.

    The lock is the operating system's: it is released with the process that holds it, also by kill -9.

    Args:
        settings: the installation.
        line: the line's name.
    """

    def __init__(self, settings: Settings, line: str) -> None:
        folder = settings.home / "gateway"
        folder.mkdir(parents=True, exist_ok=True)
        self._line = line
        self._give_way = folder / f"{line}.give-way"
        self._lock = FileLock(folder / f"{line}.traffic.lock")

    def acquire(self, wait_seconds: float, urgent: bool = False) -> TrafficLock:
        """Take the lock.

        Args:
            wait_seconds: how long to wait for it.
            urgent: ask the holder to put its traffic back and release the lock.

        Raises:
            RolloutBusy: another process still holds it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            if urgent:
                self._give_way.touch()
            try:
                self._lock.acquire(timeout=wait_seconds)
            except Timeout:
                raise RolloutBusy(
                    f"Another process is moving the traffic of {self._line}.",
                    "Wait for it (`weighbridge status` shows the weights), or run "
                    f"`weighbridge rollback {self._line}` to make it give way.",
                ) from None
        self._give_way.unlink(missing_ok=True)
        return self

    @property
    def asked_to_give_way(self) -> bool:
        """True if a rollback waits for this lock."""
        return self._give_way.exists()

    def __enter__(self) -> TrafficLock:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
