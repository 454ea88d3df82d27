"""Intervals of shares and quantiles, and the test between two shares; counts need not be whole numbers.

Requests that depend on each other count as fewer, independent ones (`strata.py`), so that counts have fractions here.
With whole counts these are the exact intervals of Clopper and Pearson, Fisher's exact test, and the distribution-free
interval of a quantile by order statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrik, betaincinv, gammaln

Array = NDArray[Any]


@dataclass(frozen=True)
class Count:
    """How many of so many independent requests had a property."""

    count: float
    total: float

    @property
    def share(self) -> float | None:
        """The plain share; None without requests."""
        return self.count / self.total if self.total else None

    def low(self, error: float) -> float:
        """Lower bound of the true share, wrong with a probability of at most `error`."""
        return float(betaincinv(self.count, self.total - self.count + 1, error)) if self.count > 0 else 0.0

    def high(self, error: float) -> float:
        """Upper bound of the true share, wrong with a probability of at most `error`."""
        left = self.total - self.count
        return float(betaincinv(self.count + 1, left, 1 - error)) if left > 0 else 1.0


def is_above(first: Count, second: Count, error: float) -> bool:
    """True if the first share is shown to be larger, by Fisher's exact test; fractions count for the second."""
    total, count = round(first.total), int(first.count + 1e-9)
    other_total, other = round(second.total), int(np.ceil(second.count - 1e-9))
    marked = count + other
    # The hypergeometric distribution's upper tail, in logarithms.
    counts = np.arange(count, min(marked, total) + 1)
    counts = counts[marked - counts <= other_total]
    if not counts.size:
        return False
    logs = (
        _log_choose(total, counts)
        + _log_choose(other_total, marked - counts)
        - _log_choose(total + other_total, marked)
    )
    return bool(np.exp(logs).sum() < error)


def _log_choose(total: float, chosen: Any) -> Any:
    return gammaln(total + 1) - gammaln(chosen + 1) - gammaln(total - chosen + 1)


def highest_excess(first: Count, second: Count, error: float) -> float:
    """Upper bound of how far the first share exceeds the second one.

    Newcombe's square-and-add (1998, method 10) with Clopper and Pearson's bounds in place of Wilson's, so that it errs
    to the safe side.
    """
    if not first.total or not second.total:
        return 1.0
    one, other = first.count / first.total, second.count / second.total
    spread = np.hypot(first.high(error) - one, other - second.low(error))
    return float(one - other + spread)


@dataclass(frozen=True)
class Quantile:
    """A quantile's estimate with its bounds; None where there are too few values for one."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


def quantile_of(values: Array, weights: Array | None, independent: float, part: float, error: float) -> Quantile:
    """Estimate a quantile.

    Args:
        values: of one version, without NaN.
        weights: of the values; None if all count the same.
        independent: number of independent values that these are worth.
        part: which quantile, such as 0.5 for the median.
        error: largest probability that either bound is wrong.
    """
    if not values.size:
        return Quantile()
    order = np.argsort(values)
    ranked = values[order]
    passed = np.cumsum(np.ones(values.size) if weights is None else weights[order])
    passed /= passed[-1]

    def at(share: float, side: Any) -> float:
        return float(ranked[min(int(np.searchsorted(passed, share, side)), ranked.size - 1)])

    total = max(independent, 1e-9)
    # The rank k below which fewer than k of the true quantile's values lie with a probability of at most error / 2.
    below = _rank(total, part, error / 2)
    above = _rank(total, 1 - part, error / 2)
    low = at(below / total + 1e-12, "right") if below is not None else None
    high = at(1 - above / total - 1e-12, "left") if above is not None else None
    return Quantile(value=at(part, "left"), low=low, high=high)


def _rank(total: float, part: float, error: float) -> float | None:
    """Largest k with P(Binomial(total, part) <= k) <= error; None if there is none."""
    if total * np.log1p(-part) > np.log(error):
        return None
    return float(np.floor(bdtrik(error, total, part)))


def ratio_bounds(new: Quantile, old: Quantile) -> tuple[float | None, float | None]:
    """Bounds of the ratio of two quantiles: Newcombe's square-and-add on logarithms; None where there is no bound."""
    if not new.value or not old.value:
        return None, None
    ratio = np.log(new.value / old.value)
    low = high = None
    if new.low and old.high:
        low = float(np.exp(ratio - np.hypot(np.log(new.value / new.low), np.log(old.high / old.value))))
    if new.high and old.low:
        high = float(np.exp(ratio + np.hypot(np.log(new.high / new.value), np.log(old.value / old.low))))
    return low, high
