"""Before scoring: the number of items that a verdict may take, and whether the suite can decide at all."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np

from tasks.evaluate.verdict.sequential.betting import best_bet
from tasks.evaluate.verdict.sequential.levels import Levels


@dataclass(frozen=True, slots=True)
class SuiteForecast:
    """The forecast of a suite for a candidate that is no worse at all."""

    items: int
    expected_items: int
    """Mean number of items read; the whole suite where it is not decided earlier."""
    power: float
    """Probability of `non_inferior` within the suite."""
    least_items: int
    """With fewer items than this, not even a candidate that flips nothing can pass."""

    @property
    def can_decide(self) -> bool:
        """Whether the suite is large enough for an even chance."""
        return self.power >= 0.5


def items_needed(margin: float, confidence: float, discordance: float, power: float = 0.9) -> int:
    """Size of a suite on which a candidate that is no worse at all passes with probability `power`."""
    low, high = 1, 1 << 30
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, margin, confidence, discordance) >= power else (middle + 1, high)
    return low


def power(items: int, margin: float, confidence: float, discordance: float) -> float:
    """Probability that a candidate that is no worse at all passes within `items`.

    Args:
        items: size of the suite.
        margin: as for `decide`.
        confidence: as for `decide`.
        discordance: share of items on which exactly one of the two is right (mean squared difference of graded
            scores); 0.02 to 0.10 for INT8, about 0.2 for INT4.
    """
    return _power(items, margin, confidence, discordance)


def forecast(items: int, margin: float, confidence: float, discordance: float) -> SuiteForecast:
    """Forecast a suite of `items`; arguments as for `power`."""
    growth, spread, threshold = _stake(margin, confidence, discordance)
    # Mean of min(first passage, items): the integral of the probability of not having passed.
    times = np.linspace(0, items, 201)
    waiting = [1 - _passage(time, growth, spread, threshold) for time in times]
    return SuiteForecast(
        items=items,
        expected_items=round(float(np.trapezoid(waiting, times))),
        power=_power(items, margin, confidence, discordance),
        least_items=_least_items(margin, confidence),
    )


def _power(items: int, margin: float, confidence: float, discordance: float) -> float:
    if items < _least_items(margin, confidence):
        return 0.0
    interim = _passage(items, *_stake(margin, confidence, discordance))
    end = Levels(margin, confidence, final_analysis=True).passing[1]
    # Under the null there are as many flips or more: the root of the restricted estimate, Tango's at a mean of 0.
    null_spread = sqrt(sqrt(discordance**2 + 4 * margin**2))
    deviate = (margin * sqrt(items) - NormalDist().inv_cdf(1 - end) * null_spread) / sqrt(max(discordance, 1e-9))
    return min(max(interim, NormalDist().cdf(deviate)), 1.0)


def _stake(margin: float, confidence: float, discordance: float) -> tuple[float, float, float]:
    """Mean and standard deviation of an item's effect on the stake's logarithm, and the threshold of the logarithm."""
    bet = min(float(best_bet(discordance, margin)), 0.95 / (1 + margin))
    gained, tied, lost = (log(1 + bet * (difference + margin)) for difference in (1, 0, -1))
    mean = discordance / 2 * (gained + lost) + (1 - discordance) * tied
    square = discordance / 2 * (gained**2 + lost**2) + (1 - discordance) * tied**2
    threshold = -log(Levels(margin, confidence, final_analysis=True).passing[0])
    return mean, sqrt(max(square - mean**2, 1e-12)), threshold


def _passage(time: float, growth: float, spread: float, threshold: float) -> float:
    """Probability that Brownian motion with drift reaches a level within a time (inverse Gaussian distribution)."""
    if time <= 0:
        return 0.0
    normal, width = NormalDist(), spread * sqrt(time)
    first = normal.cdf((growth * time - threshold) / width)
    tail = normal.cdf((-growth * time - threshold) / width)
    exponent = 2 * growth * threshold / spread**2
    return min(first + (exp(exponent) * tail if tail > 0 and exponent < 600 else 0.0), 1.0)


def _least_items(margin: float, confidence: float) -> int:
    """Even without a flip, (1 - margin) ** items must be below the error (rule of three)."""
    return int(np.ceil(log(1 - confidence) / log(1 - margin)))
