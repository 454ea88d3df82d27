"""Requests counted by Envoy as they happen; its access log has only those that have ended."""

from __future__ import annotations

import time
from collections import deque

from tasks.serve.gateway import BackendCounters, Gateway

REMEMBERED = 2000
"""Moments whose counts are kept: a quarter of an hour of two a second."""


class EnvoyCounts:
    """Requests of several versions since a moment, from Envoy's counters; a restarted Envoy counts from 0 again.

    Args:
        gateway: whose Envoy.
        line: the line's name.
        versions: of the line, each with a backend.
    """

    def __init__(self, gateway: Gateway, line: str, versions: tuple[str, ...]) -> None:
        self._gateway, self._line = gateway, line
        self._last = {version: gateway.counters(line, version) for version in versions}
        self._sums = dict.fromkeys(versions, (0, 0))
        # When each version's requests had reached the engine, for as long back as a request may take.
        self._sent: dict[str, deque[tuple[float, int]]] = {version: deque(maxlen=REMEMBERED) for version in versions}

    def read(self) -> dict[str, BackendCounters]:
        """Read the present counters, by version.

        Raises:
            GatewayFailed: Envoy does not answer.
        """
        now = {version: self._gateway.counters(self._line, version) for version in self._last}
        for version, counters in now.items():
            last = self._last[version]
            if counters.requests < last.requests:
                last = counters.model_copy(update={"requests": 0, "errors_5xx": 0, "broken": 0})
                self._sent[version].clear()
            self._sent[version].append((time.monotonic(), counters.sent))
            requests, errors = self._sums[version]
            self._sums[version] = (
                requests + counters.requests - last.requests,
                errors + counters.errors_5xx + counters.broken - last.errors_5xx - last.broken,
            )
        self._last = now
        return now

    def requests(self, version: str) -> int:
        """Number of requests whose response began."""
        return self._sums[version][0]

    def errors(self, version: str) -> int:
        """Number of these that failed."""
        return self._sums[version][1]

    def begun(self, version: str) -> int:
        """Number of requests whose response began, or that wait for it."""
        return self._sums[version][0] + self._last[version].active

    def unanswered(self, version: str, seconds: float) -> int:
        """Smallest number of requests that have been in progress for longer than this.

        Args:
            version: of the line.
            seconds: longest time that a request may take.
        """
        earlier = [sent for moment, sent in self._sent[version] if moment <= time.monotonic() - seconds]
        if not earlier:
            return 0
        last = self._last[version]
        return max(0, last.active - last.waiting - (last.sent - earlier[-1]))

    def ended(self, version: str) -> int:
        """Smallest number of requests that can have ended: active ones may have begun before the moment."""
        return max(0, self._sums[version][0] - self._last[version].active)

    @property
    def quiet(self) -> bool:
        """True if no version got a request."""
        return not any(self.begun(version) for version in self._sums)
