"""One drift signal: the change, its interval, and its outcome against the line's bound."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.drift.intervals import Interval

BoundCheck = Literal["ok", "worse", "unsure", "reported"]
"""Shown to lie within the bound; shown to lie beyond it; neither is shown; the line has no bound."""
Side = Literal["at most", "at least", "within a factor"]


class DriftSignal(BaseModel):
    """A signal with its interval, which decides the outcome; the estimate never does."""

    model_config = ConfigDict(frozen=True)

    name: str
    production: float | None
    """The amount in production, in the signal's own terms; None where it exists only for both models together."""
    candidate: float | None
    difference: float
    """The amount that the bound limits: a rise, a share, a ratio or a divergence, in `unit`."""
    low: float | None
    """Lower bound, one-sided at the confidence; None where the data cannot give one."""
    high: float | None
    unit: str
    bound: float | None
    """The line's bound; None where the signal is only reported."""
    side: Side = "at most"
    outcome: BoundCheck
    units: int
    """Number of independent texts, items or clusters behind the estimate."""
    note: str = ""

    @property
    def sentence(self) -> str:
        """The signal in words, such as `KL 1.90 nats a token (1.70 to 2.10), bound at most 0.25`."""
        spread = (
            "no interval" if self.low is None or self.high is None else f"{self._of(self.low)} to {self._of(self.high)}"
        )
        limit = "" if self.bound is None else f", bound {self.side} {self._of(self.bound)}"
        tail = f" {self.unit}" if self.unit not in ("share", "×") else ""
        note = f"; {self.note}" if self.note else ""
        return f"{self.name} {self._of(self.difference)}{tail} ({spread}){limit}{note}"

    def _of(self, value: float) -> str:
        if self.unit == "share":
            return f"{value:.1%}"
        return f"{value:.3g}" if self.unit != "×" else f"{value:.2f} ×"


def make_signal(
    name: str,
    interval: Interval,
    *,
    unit: str,
    bound: float | None,
    side: Side = "at most",
    production: float | None = None,
    candidate: float | None = None,
    note: str = "",
) -> DriftSignal:
    """Make a signal and decide it against its bound."""
    return DriftSignal(
        name=name,
        production=production,
        candidate=candidate,
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        unit=unit,
        bound=bound,
        side=side,
        outcome=decide(interval.low, interval.high, bound, side),
        units=interval.units,
        note=note,
    )


def decide(low: float | None, high: float | None, bound: float | None, side: Side) -> BoundCheck:
    """Whether an interval lies within a bound, beyond it, or across it.

    Args:
        low: lower end of the interval; None where it is unknown.
        high: upper end.
        bound: the limit; None where the signal is only reported.
        side: the direction of the limit; `within a factor` takes a bound of at least 1, for ratios in both directions.
    """
    if bound is None:
        return "reported"
    if low is None or high is None:
        return "unsure"
    lowest, highest = float("-inf"), bound
    if side == "at least":
        lowest, highest = bound, float("inf")
    elif side == "within a factor":
        lowest = 1 / bound
    if lowest <= low and high <= highest:
        return "ok"
    return "worse" if low > highest or high < lowest else "unsure"
