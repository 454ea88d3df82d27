"""What a canary step compares: one signal each for errors, latency, speed and length of the answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

CanaryOutcome = Literal["better", "no_worse", "worse", "inconclusive"]

SHARES = ("errors", "client errors", "empty answers")
TAILS = ("latency p95", "latency p99")
LENGTH = "length"
TIME_PER_TOKEN = "time per token p50"
NAMES = (*SHARES, "first byte p50", TIME_PER_TOKEN, "latency p50", *TAILS, LENGTH)

UNNOTICED_MS = 20.0
"""Rises of a latency below this are ignored, whatever the ratio: no user notices."""

UNNOTICED_TOKEN_MS = 5.0
"""The same for the time per token: no user reads as fast (250 words a minute are some 180 ms a token)."""


def unnoticed_ms(name: str) -> float:
    """Largest rise of a latency that is ignored, in milliseconds.

    Args:
        name: of the signal.
    """
    return UNNOTICED_TOKEN_MS if name == TIME_PER_TOKEN else UNNOTICED_MS


class CanarySignal(BaseModel):
    """One comparison: the new version's value, production's, and an interval."""

    model_config = ConfigDict(frozen=True)

    name: str
    outcome: CanaryOutcome
    asks: Literal["errors", "speed"]
    """Which of the line's `when_…_unsure` decides if the signal stays inconclusive."""
    holds: bool
    """Whether a step waits for its decision. Signals that need more requests than a step has do not hold it."""
    candidate: float | None
    production: float | None
    low: float | None
    """Bound of the new version's share, or of the ratio of its value to production's; None: no bound."""
    high: float | None
    allowed: float
    """Largest share or ratio that counts as no worse whatever production does."""
    allowed_low: float | None = None
    """Smallest such ratio of a length; None: the inverse of the largest."""

    @property
    def sentence(self) -> str:
        """The finding in words."""
        return (
            f"{self.name} {self.shown(self.candidate)} against production's {self.shown(self.production)} "
            f"({'share' if self.name in SHARES else 'ratio'} {self.interval}; the line allows {self.limits})"
        )

    @property
    def interval(self) -> str:
        """The interval in words; – where there is no bound."""
        return " to ".join("–" if bound is None else f"{bound:.3g}" for bound in (self.low, self.high))

    @property
    def limits(self) -> str:
        """What the line allows, in words."""
        return f"{self.allowed:g}" if self.allowed_low is None else f"{self.allowed_low:g} to {self.allowed:g}"

    def shown(self, value: float | None) -> str:
        """One version's value with its unit."""
        if value is None:
            return "nothing"
        if self.name in SHARES:
            return f"{value:.1%}"
        return f"{value:.0f}" if self.name == LENGTH else f"{value:.3g} ms"

    @property
    def waits(self) -> bool:
        """True if a step is held longer for this signal."""
        return self.outcome == "inconclusive" and (self.holds or (self.leans_worse and self.name not in TAILS))

    @property
    def leans_worse(self) -> bool:
        """True if the signal is undecided and its plain estimate exceeds what is allowed.

        It decides nothing by itself: the line's `when_…_unsure` does.
        """
        if self.outcome != "inconclusive" or self.candidate is None:
            return False
        if self.name in SHARES:
            return self.candidate > max(self.allowed, self.production or 0.0)
        if not self.production:
            return False
        ratio = self.candidate / self.production
        if self.name == LENGTH:
            return ratio > self.allowed or ratio < (self.allowed_low or 1 / self.allowed)
        return ratio > self.allowed and self.candidate - self.production > unnoticed_ms(self.name)
