"""Intervals of shares and quantiles, and the test between two shares; counts need not be whole numbers.

Requests that depend on each other count as fewer, independent ones (`strata.py`), so that counts have fractions here.
With whole counts these are the exact intervals of Clopper and Pearson, Fisher's exact test, and the distribution-free
interval of a quantile by order statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
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
    share, other_share = first.count / first.total, second.count / second.total
    spread = np.hypot(first.high(error) - share, other_share - second.low(error))
    return float(share - other_share + spread)


@dataclass(frozen=True)
class Quantile:
    """A quantile's estimate with its bounds; None where there are too few values for one."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Ranked:
    """Values of one version in their order.

    Args:
        values: without NaN.
        weights: of the values.
    """

    def __init__(self, values: Array, weights: Array) -> None:
        order = np.argsort(values)
        self.values = values[order]
        self._passed = np.cumsum(weights[order])
        if values.size:
            self._passed /= self._passed[-1]

    def at(self, share: float, side: Any = "left") -> float:
        """The value below which this share of the weight lies; NaN without values."""
        if not self.values.size:
            return nan
        return float(self.values[min(int(np.searchsorted(self._passed, share, side)), self.values.size - 1)])

    def quantile(self, part: float, independent: float, error: float) -> Quantile:
        """Estimate a quantile.

        Args:
            part: which, such as 0.5 for the median.
            independent: number of independent values that these are worth.
            error: largest probability that either bound is wrong.
        """
        if not self.values.size:
            return Quantile()
        total = max(independent, 1e-9)
        # So many values lie below the true quantile, or above it, with a probability of at most error / 2.
        below, above = _rank(total, part, error / 2), _rank(total, 1 - part, error / 2)
        return Quantile(
            value=self.at(part),
            low=self.at(below / total + 1e-12, "right") if below is not None else None,
            high=self.at(1 - above / total - 1e-12) if above is not None else None,
        )


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
