"""How fast work gets on, from what was done lately, and how long the rest will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 60.0
"""The rate is that of the last minute, or of the last few steps where steps take longer."""
FEWEST_STEPS = 3
"""Steps that a rate needs at least: the first one often contains a start."""
ENOUGH_SECONDS = 5.0
"""Shortest time that a rate is told for."""


class Pace:
    """The moving rate of some work. What was done before the first note came from an earlier run, and counts for none.

    Args:
        clock: Returns seconds; by default a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._notes: deque[tuple[float, int]] = deque()

    def note(self, done: int) -> None:
        """Note how many units are done by now, those of an earlier run included."""
        now = self._clock()
        if self._notes and done < self._notes[-1][1]:
            # Something damaged is done again; what was known of the pace is too.
            self._notes.clear()
        if not self._notes or done > self._notes[-1][1]:
            self._notes.append((now, done))
        while len(self._notes) > FEWEST_STEPS + 1 and now - self._notes[0][0] > WINDOW_SECONDS:
            self._notes.popleft()

    @property
    def per_second(self) -> float | None:
        """Units a second; None while too little is known."""
        if len(self._notes) <= FEWEST_STEPS:
            return None
        began, before = self._notes[0]
        # Until now and not until the last step: work that stands still gets slower.
        seconds = self._clock() - began
        return (self._notes[-1][1] - before) / seconds if seconds >= ENOUGH_SECONDS else None

    def seconds_left(self, total: int) -> float | None:
        """Return how long the rest will take; None while too little is known, or if nothing is left."""
        rate = self.per_second
        if not rate or not self._notes or self._notes[-1][1] >= total:
            return None
        return (total - self._notes[-1][1]) / rate
