"""A new version against production on the same stretch of traffic, decided by intervals.

All of it is exact and without an assumption of shape, and from scipy. A share is worse when it is shown to be
above what the line allows (Clopper and Pearson's interval) *and* above production's (Fisher's exact test): what
ails both is not held against the new one. A latency's or length's interval is that of the ratio of quantiles,
made of both versions' own by order statistics, each at half the error, so it errs to the safe side. `Looks`
shares the permitted error out over repeated looks. What this does *not* know: requests that are still being
answered, and that two versions at 1 and 99 per cent of the load do not work under the same load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest, fisher_exact, quantile_test

from tasks.serve.rollout.window import Sample
from weighbridge.line import Rollout

Outcome = Literal["better", "no_worse", "worse", "inconclusive"]

FALSE_STOP = 0.05
"""Most rollouts of a version that is just within what the line allows that may be stopped for being worse."""

FEWEST = 4
"""Requests of the new version before the first look."""

GROWTH = 2
"""Between a step's beginning and its end, the next look waits for this many times the requests of the last."""

SPENT_BY = {"early": 0.25, "due": 0.5, "overdue": 0.25}
"""How a step's error is shared: a strict early stop, the look when the step has been held long enough, and the
one when it has been held as long as the line allows."""

SPENT_ON_SHARE, SPENT_ON_OTHER = 1 / 4, 1 / 12
"""Of a look's error, for each of the two shares and of the six others."""

UNFELT_MS = 20.0
"""A rise of a latency below this is no user's, whatever the ratio."""

UNFELT_TOKEN_MS = 5.0
"""The same of the time per token: faster than anybody reads (250 words a minute are some 180 ms a token)."""

SHORT_SHARE = 0.25
"""Where the log counts no tokens, an answer of less than this share of production's median bytes is empty."""


class Signal(BaseModel):
    """One thing that was compared: the new version's value, production's, and an interval."""

    model_config = ConfigDict(frozen=True)

    name: str
    outcome: Outcome
    asks: Literal["errors", "speed"]
    """Which of the line's `when_…_unsure` answers for it when it stays inconclusive."""
    holds: bool
    """Whether a step waits until it is decided; what takes more requests than a step has does not hold it."""
    candidate: float | None
    production: float | None
    low: float | None
    """Of the new version's share, or of the ratio of its value to production's; None: no bound."""
    high: float | None
    allowed: float
    """Largest share or ratio that counts as no worse whatever production does."""

    @property
    def sentence(self) -> str:
        """What was found, for a person."""
        return (
            f"{self.name} {self.shown(self.candidate)} against production's {self.shown(self.production)} "
            f"({'share' if self.name in SHARES else 'ratio'} {self.interval}; the line allows {self.allowed:g})"
        )

    @property
    def interval(self) -> str:
        """The interval, for a person; – where there is no bound."""
        return " to ".join("–" if one is None else f"{one:.3g}" for one in (self.low, self.high))

    def shown(self, value: float | None) -> str:
        """One version's value with its unit, for a person."""
        if value is None:
            return "nothing"
        if self.name in SHARES:
            return f"{value:.1%}"
        return f"{value:.0f}" if self.name == "length" else f"{value:.3g} ms"

    @property
    def waits(self) -> bool:
        """Whether a step is held longer for it."""
        return self.outcome == "inconclusive" and (self.holds or (self.leans_worse and self.name not in TAILS))

    @property
    def leans_worse(self) -> bool:
        """Whether the plain estimate is beyond what is allowed; it decides nothing but whom to ask."""
        if self.outcome != "inconclusive" or self.candidate is None:
            return False
        if self.name in SHARES:
            return self.candidate > max(self.allowed, self.production or 0.0)
        if not self.production:
            return False
        ratio = self.candidate / self.production
        return ratio > self.allowed or (self.name == "length" and ratio < 1 / self.allowed)


SHARES = ("errors", "empty answers")
TAILS = ("latency p95", "latency p99")
NAMES = (*SHARES, "first byte p50", "time per token p50", "latency p50", *TAILS, "length")


Moment = Literal["early", "due", "overdue"]


class Looks:
    """How much error each look of a step may spend: together never more than the step's part.

    Early look k has 1 / (k (k + 1)) of what early looks have; these sum to 1, however many there will be.

    Args:
        steps: of the rollout; each has the same part of `FALSE_STOP`.
    """

    def __init__(self, steps: int) -> None:
        self._error = FALSE_STOP / steps
        self._early, self._seen = 0, 0
        self._left: set[Moment] = {"due", "overdue"}

    def due(self, requests: int, due: bool, overdue: bool) -> Moment | None:
        """Which look is to be taken now, if any.

        Args:
            requests: of the new version that have ended.
            due: the step has been held long enough.
            overdue: it has been held as long as the line allows.
        """
        if overdue and "overdue" in self._left:
            return "overdue"
        if due and "due" in self._left:
            return "due"
        return "early" if requests >= max(FEWEST, self._seen * GROWTH) else None

    def spend(self, moment: Moment, requests: int) -> float:
        """The error that this look may make in all its signals together."""
        self._seen = max(self._seen, requests)
        if moment == "early":
            self._early += 1
            return self._error * SPENT_BY[moment] / (self._early * (self._early + 1))
        self._left.discard(moment)
        return self._error * SPENT_BY[moment]


def judge(candidate: Sample, production: Sample, allowed: Rollout, error: float) -> tuple[Signal, ...]:
    """Compare two versions in everything that the log tells.

    Args:
        candidate: the new version's requests.
        production: the old one's, of the same time.
        allowed: the line's limits.
        error: how probable it may be that any signal is called worse wrongly.
    """
    ratio, for_share, error = allowed.max_latency_ratio, error * SPENT_ON_SHARE, error * SPENT_ON_OTHER
    return (
        _share("errors", _failed(candidate), _failed(production), allowed.max_error_share, for_share),
        _share("empty answers", *_empty(candidate, production), allowed.max_empty_share, for_share),
        _ratio("first byte p50", candidate.first_byte_ms, production.first_byte_ms, 0.5, ratio, error, holds=True),
        _ratio("time per token p50", candidate.token_ms, production.token_ms, 0.5, ratio, error, holds=True),
        _ratio("latency p50", candidate.total_ms, production.total_ms, 0.5, ratio, error, holds=not candidate.token_ms),
        _ratio("latency p95", candidate.total_ms, production.total_ms, 0.95, ratio, error),
        _ratio("latency p99", candidate.total_ms, production.total_ms, 0.99, ratio, error),
        _length(candidate, production, allowed.max_length_ratio, error),
    )


def _failed(sample: Sample) -> tuple[int, int]:
    return sample.failed, sample.requests


def _empty(candidate: Sample, production: Sample) -> tuple[tuple[int, int], tuple[int, int]]:
    """Empty answers of whole ones, of both versions, by one rule."""
    if candidate.tokens and production.tokens:
        first, second = ((sum(one == 0 for one in each.tokens), len(each.tokens)) for each in (candidate, production))
        return first, second
    usual = float(np.median(production.sent_bytes)) if production.sent_bytes else 0.0
    short = [
        (sum(one < SHORT_SHARE * usual for one in each.sent_bytes), len(each.sent_bytes))
        for each in (candidate, production)
    ]
    return short[0], short[1]


def _share(name: str, candidate: tuple[int, int], production: tuple[int, int], allowed: float, error: float) -> Signal:
    low, high = 0.0, 1.0
    outcome: Outcome = "inconclusive"
    if candidate[1]:
        found = binomtest(*candidate).proportion_ci(1 - 2 * error, "exact")
        low, high = float(found.low), float(found.high)
        if low > allowed and _above(candidate, production, error):
            outcome = "worse"
        elif production[1] and _above(production, candidate, error):
            outcome = "better"
        elif high <= allowed:
            outcome = "no_worse"
    return Signal(
        name=name,
        outcome=outcome,
        asks="errors",
        # To show that one per cent is not exceeded takes hundreds of requests.
        holds=False,
        candidate=candidate[0] / candidate[1] if candidate[1] else None,
        production=production[0] / production[1] if production[1] else None,
        low=low,
        high=high,
        allowed=allowed,
    )


def _above(one: tuple[int, int], other: tuple[int, int], error: float) -> bool:
    """Whether a share is shown to be larger than another; than that of nobody it is."""
    if not other[1]:
        return True
    table = [[count, of - count] for count, of in (one, other)]
    return bool(fisher_exact(table, alternative="greater").pvalue < error)


def _ratio(
    name: str,
    candidate: Sequence[float],
    production: Sequence[float],
    quantile: float,
    allowed: float,
    error: float,
    holds: bool = False,
) -> Signal:
    ours, theirs = _quantile(candidate, quantile, error), _quantile(production, quantile, error)
    unfelt = UNFELT_TOKEN_MS if "token" in name else UNFELT_MS
    low, high = _over(ours.low, theirs.high), _over(ours.high, theirs.low)
    outcome: Outcome = "inconclusive"
    if low is not None and low > allowed and ours.low is not None and ours.low - (theirs.high or 0) > unfelt:
        outcome = "worse"
    elif high is not None and high < 1:
        outcome = "better"
    elif high is not None and ours.high is not None and theirs.low is not None:
        outcome = "no_worse" if high <= allowed or ours.high - theirs.low <= unfelt else "inconclusive"
    return Signal(
        name=name,
        outcome=outcome,
        asks="speed",
        holds=holds and bool(candidate) and bool(production),
        candidate=ours.value,
        production=theirs.value,
        low=low,
        high=high,
        allowed=allowed,
    )


def _length(candidate: Sample, production: Sample, allowed: float, error: float) -> Signal:
    counted = bool(candidate.tokens and production.tokens)
    ours = _quantile(candidate.tokens if counted else candidate.sent_bytes, 0.5, error)
    theirs = _quantile(production.tokens if counted else production.sent_bytes, 0.5, error)
    low, high = _over(ours.low, theirs.high), _over(ours.high, theirs.low)
    outcome: Outcome = "inconclusive"
    if (low is not None and low > allowed) or (high is not None and high < 1 / allowed):
        outcome = "worse"
    elif low is not None and high is not None and low >= 1 / allowed and high <= allowed:
        outcome = "no_worse"
    return Signal(
        name="length",
        outcome=outcome,
        asks="speed",
        holds=False,
        candidate=ours.value,
        production=theirs.value,
        low=low,
        high=high,
        allowed=allowed,
    )


class _Quantile(BaseModel):
    value: float | None = None
    low: float | None = None
    high: float | None = None


def _quantile(values: Sequence[float], quantile: float, error: float) -> _Quantile:
    """A quantile with its interval; a bound that so few values cannot give is None."""
    if not values:
        return _Quantile()
    found = quantile_test(values, p=quantile).confidence_interval(1 - error)
    return _Quantile(value=float(np.quantile(values, quantile)), low=_bound(found.low), high=_bound(found.high))


def _bound(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None
