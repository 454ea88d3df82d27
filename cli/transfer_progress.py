"""Progress of a long copy: a bar at a terminal, else a line every ten seconds, with the time left by a moving rate."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cli.output import note
from tasks.source.progress import byte_bar
from weighbridge.units import GIB

EVERY_SECONDS = 10.0
WINDOW_SECONDS = 30.0
"""The rate is that of so long before now: an early stall says nothing about the rest."""


@contextmanager
def transfer_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a copy on standard error while the block runs.

    Yields:
        A callback that takes (bytes done, bytes in all).
    """
    if sys.stderr.isatty():
        with byte_bar(what) as progress:
            yield lambda done, total: progress(done, total) if total else None
        return
    yield Lines(lambda text: note(what, text))


class Lines:
    """Writes a line of progress now and then; none for a copy of a few seconds.

    Args:
        write: takes the line.
        clock: seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._marks: deque[tuple[float, int]] = deque()
        self._written = clock()

    def __call__(self, done: int, total: int) -> None:
        """Take note of bytes done, of bytes in all."""
        now = self._clock()
        if not self._marks or now - self._marks[-1][0] >= 1:
            self._marks.append((now, done))
        while now - self._marks[0][0] > WINDOW_SECONDS and len(self._marks) > 2:
            self._marks.popleft()
        if now - self._written < EVERY_SECONDS or done >= total:
            return
        self._written = now
        began, before = self._marks[0]
        rate = (done - before) / (now - began) if now > began else 0.0
        left = f"{rate / 1e6:.0f} MB/s, about {(total - done) / rate:.0f} s left" if rate else "waits"
        self._write(f"{done / GIB:.1f} of {total / GIB:.1f} GiB ({done / total:.0%}), {left}")
