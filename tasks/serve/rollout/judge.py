"""A new version against production on the same stretch of traffic, decided by intervals.

All intervals are exact and assume no shape of the distributions; they come from scipy. A share is worse when it is
shown to be above what the line allows (Clopper and Pearson's interval) *and* above production's (Fisher's exact test):
what ails both is not held against the new version. The interval of a latency or a length is that of the ratio of two
quantiles. It is made of each version's own interval by order statistics, each at half the error, so it errs to the
safe side. Unknown here: requests that are still being answered, and that two versions at 1 and 99 per cent of the load
do not work under the same load.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel
from scipy.stats import binomtest, fisher_exact, quantile_test

from tasks.serve.rollout.signals import LENGTH, TIME_PER_TOKEN, CanaryOutcome, CanarySignal, unnoticed_ms
from tasks.serve.rollout.window import Sample
from weighbridge.line import Rollout

SPENT_ON_SHARE, SPENT_ON_OTHER = 1 / 4, 1 / 12
"""Part of an interim result's error for each of the two shares, and for each of the six other signals."""

SHORT_SHARE = 0.25
"""Where the log counts no tokens, an answer of less than this share of production's median bytes is empty."""


def judge(candidate: Sample, production: Sample, allowed: Rollout, error: float) -> tuple[CanarySignal, ...]:
    """Compare two versions in everything that the access log tells.

    Args:
        candidate: the new version's requests.
        production: the old version's, of the same time.
        allowed: the line's limits.
        error: largest probability that any signal is called worse wrongly.
    """
    ratio, for_share, error = allowed.max_latency_ratio, error * SPENT_ON_SHARE, error * SPENT_ON_OTHER
    return (
        _share("errors", _failed(candidate), _failed(production), allowed.max_error_share, for_share),
        _share("empty answers", *_empty(candidate, production), allowed.max_empty_share, for_share),
        _ratio("first byte p50", candidate.first_byte_ms, production.first_byte_ms, 0.5, ratio, error, holds=True),
        _ratio(TIME_PER_TOKEN, candidate.token_ms, production.token_ms, 0.5, ratio, error, holds=True),
        _ratio("latency p50", candidate.total_ms, production.total_ms, 0.5, ratio, error, holds=not candidate.token_ms),
        _ratio("latency p95", candidate.total_ms, production.total_ms, 0.95, ratio, error),
        _ratio("latency p99", candidate.total_ms, production.total_ms, 0.99, ratio, error),
        _length(candidate, production, allowed.max_length_ratio, error),
    )


def _failed(sample: Sample) -> tuple[int, int]:
    return sample.failed, sample.requests


def _empty(candidate: Sample, production: Sample) -> tuple[tuple[int, int], tuple[int, int]]:
    """Count empty answers among whole ones, in both versions by one rule."""
    if candidate.tokens and production.tokens:
        first, second = (
            (sum(tokens == 0 for tokens in sample.tokens), len(sample.tokens)) for sample in (candidate, production)
        )
        return first, second
    usual_bytes = float(np.median(production.sent_bytes)) if production.sent_bytes else 0.0
    first, second = (
        (sum(sent < SHORT_SHARE * usual_bytes for sent in sample.sent_bytes), len(sample.sent_bytes))
        for sample in (candidate, production)
    )
    return first, second


def _share(
    name: str, candidate: tuple[int, int], production: tuple[int, int], allowed: float, error: float
) -> CanarySignal:
    """Compare two shares, each as a count and its total."""
    low, high = 0.0, 1.0
    outcome: CanaryOutcome = "inconclusive"
    if candidate[1]:
        interval = binomtest(*candidate).proportion_ci(1 - 2 * error, "exact")
        low, high = float(interval.low), float(interval.high)
        if low > allowed and _above(candidate, production, error):
            outcome = "worse"
        elif production[1] and _above(production, candidate, error):
            outcome = "better"
        elif high <= allowed:
            outcome = "no_worse"
    return CanarySignal(
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


def _above(share: tuple[int, int], other: tuple[int, int], error: float) -> bool:
    """True if a share is shown to be larger than another. True if the other side has no requests."""
    if not other[1]:
        return True
    table = [[count, total - count] for count, total in (share, other)]
    return bool(fisher_exact(table, alternative="greater").pvalue < error)


def _ratio(
    name: str,
    candidate: Sequence[float],
    production: Sequence[float],
    quantile: float,
    allowed: float,
    error: float,
    holds: bool = False,
) -> CanarySignal:
    """Compare one quantile of two versions' latencies, in milliseconds."""
    new, old = _quantile(candidate, quantile, error), _quantile(production, quantile, error)
    low, high = _quotient(new.low, old.high), _quotient(new.high, old.low)
    outcome: CanaryOutcome = "inconclusive"
    if low is not None and low > allowed and _difference(new.low, old.high) > unnoticed_ms(name):
        outcome = "worse"
    elif high is not None and high < 1:
        outcome = "better"
    elif high is not None and (high <= allowed or _difference(new.high, old.low) <= unnoticed_ms(name)):
        outcome = "no_worse"
    return CanarySignal(
        name=name,
        outcome=outcome,
        asks="speed",
        holds=holds and bool(candidate) and bool(production),
        candidate=new.value,
        production=old.value,
        low=low,
        high=high,
        allowed=allowed,
    )


def _length(candidate: Sample, production: Sample, allowed: float, error: float) -> CanarySignal:
    """Compare the answers' median length: in tokens where both versions' are counted, else in bytes."""
    counted = bool(candidate.tokens and production.tokens)
    new = _quantile(candidate.tokens if counted else candidate.sent_bytes, 0.5, error)
    old = _quantile(production.tokens if counted else production.sent_bytes, 0.5, error)
    low, high = _quotient(new.low, old.high), _quotient(new.high, old.low)
    outcome: CanaryOutcome = "inconclusive"
    if (low is not None and low > allowed) or (high is not None and high < 1 / allowed):
        outcome = "worse"
    elif low is not None and high is not None and low >= 1 / allowed and high <= allowed:
        outcome = "no_worse"
    return CanarySignal(
        name=LENGTH,
        outcome=outcome,
        asks="speed",
        holds=False,
        candidate=new.value,
        production=old.value,
        low=low,
        high=high,
        allowed=allowed,
    )


class _Quantile(BaseModel):
    value: float | None = None
    low: float | None = None
    high: float | None = None


def _quantile(values: Sequence[float], quantile: float, error: float) -> _Quantile:
    """Estimate a quantile with its interval; a bound that so few values cannot give is None."""
    if not values:
        return _Quantile()
    interval = quantile_test(values, p=quantile).confidence_interval(1 - error)
    return _Quantile(value=float(np.quantile(values, quantile)), low=_bound(interval.low), high=_bound(interval.high))


def _bound(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _quotient(dividend: float | None, divisor: float | None) -> float | None:
    return dividend / divisor if dividend is not None and divisor else None


def _difference(minuend: float | None, subtrahend: float | None) -> float:
    """The difference of two bounds; a missing bound counts as 0, as no latency is below that."""
    return (minuend or 0.0) - (subtrahend or 0.0)
