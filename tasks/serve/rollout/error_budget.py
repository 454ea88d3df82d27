"""How often a canary step may take an interim result, and how much error each of these may make.

Repeated tests while data come in find a false difference sooner or later. The permitted error of a whole rollout is
therefore shared out over its steps, and within a step over its interim results.
"""

from __future__ import annotations

from typing import Literal

Moment = Literal["early", "due", "overdue", "late"]

FALSE_STOP = 0.05
"""Largest share of rollouts stopped for being worse, of a version that is just within what the line allows."""

FEWEST_REQUESTS = 4
"""Requests of the new version before the first interim result."""

GROWTH = 2
"""The next early interim result waits for this many times the requests of the last one."""

LATE_GROWTH = 1.25
"""The same for results after the longest usual time at a step."""

SPENT_BY: dict[Moment, float] = {"early": 0.25, "due": 0.35, "overdue": 0.2, "late": 0.2}
"""Shares of a step's error: for all early stops, for the result when the step has been held long enough, for the one
when it has been held as long as the line allows, and for all results of a step that is held longer, being unsure."""


class ErrorBudget:
    """Share a step's error out over its interim results: together they never spend more than the step's part.

    Early result k has 1 / (k (k + 1)) of what early results have; these sum to 1, however many there are. So do late
    ones.

    Args:
        steps: number of the rollout's steps; each has the same part of `FALSE_STOP`.
    """

    def __init__(self, steps: int) -> None:
        self._error = FALSE_STOP / steps
        self._taken: dict[Moment, int] = dict.fromkeys(SPENT_BY, 0)
        self._requests = 0

    def due(self, requests: int, due: bool, overdue: bool) -> Moment | None:
        """Say which interim result is to be taken now, if any.

        Args:
            requests: of the new version that have ended.
            due: True if the step has been held long enough.
            overdue: True if it has been held as long as the line allows.
        """
        is_time = requests >= self.next_requests(overdue)
        if overdue:
            return "overdue" if not self._taken["overdue"] else "late" if is_time else None
        return "due" if due and not self._taken["due"] else "early" if is_time else None

    def next_requests(self, overdue: bool) -> int:
        """Requests of the new version at which the next early or late interim result is due."""
        if overdue:
            return int(self._requests * LATE_GROWTH) + 1
        return max(FEWEST_REQUESTS, self._requests * GROWTH)

    def spend(self, moment: Moment, requests: int) -> float:
        """Take the error that this interim result may make in all its signals together."""
        self._requests = max(self._requests, requests)
        self._taken[moment] += 1
        number = self._taken[moment]
        part = 1 / (number * (number + 1)) if moment in ("early", "late") else 1.0
        return self._error * SPENT_BY[moment] * part
