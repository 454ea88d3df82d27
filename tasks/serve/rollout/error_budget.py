"""How often a canary step may take an interim result, and how much error each of these may make.

Repeated tests while data come in find a false difference sooner or later. The permitted error of a whole rollout is
therefore shared out over its steps, and within a step over its interim results.
"""

from __future__ import annotations

from typing import Literal

Moment = Literal["early", "due", "overdue"]

FALSE_STOP = 0.05
"""Largest share of rollouts stopped for being worse, of a version that is just within what the line allows."""

FEWEST_REQUESTS = 4
"""Requests of the new version before the first interim result."""

GROWTH = 2
"""The next early interim result waits for this many times the requests of the last one."""

SPENT_BY: dict[Moment, float] = {"early": 0.25, "due": 0.5, "overdue": 0.25}
"""Shares of a step's error: for all early stops, for the result when the step has been held long enough, and for the
one when it has been held as long as the line allows."""


class ErrorBudget:
    """Share a step's error out over its interim results: together they never spend more than the step's part.

    Early result k has 1 / (k (k + 1)) of what early results have; these sum to 1, however many there are.

    Args:
        steps: number of the rollout's steps; each has the same part of `FALSE_STOP`.
    """

    def __init__(self, steps: int) -> None:
        self._error = FALSE_STOP / steps
        self._early, self._requests = 0, 0
        self._left: set[Moment] = {"due", "overdue"}

    def due(self, requests: int, due: bool, overdue: bool) -> Moment | None:
        """Say which interim result is to be taken now, if any.

        Args:
            requests: of the new version that have ended.
            due: True if the step has been held long enough.
            overdue: True if it has been held as long as the line allows.
        """
        if overdue and "overdue" in self._left:
            return "overdue"
        if due and "due" in self._left:
            return "due"
        return "early" if requests >= max(FEWEST_REQUESTS, self._requests * GROWTH) else None

    def spend(self, moment: Moment, requests: int) -> float:
        """Take the error that this interim result may make in all its signals together."""
        self._requests = max(self._requests, requests)
        if moment == "early":
            self._early += 1
            return self._error * SPENT_BY[moment] / (self._early * (self._early + 1))
        self._left.discard(moment)
        return self._error * SPENT_BY[moment]
