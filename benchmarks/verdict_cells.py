"""Simulated suites and decision rules for `benchmarks.verdict_errors`; pairs are synthetic or resampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.evaluate.verdict.sequential import Pairs, decide

Array = NDArray[np.float64]
Numbers = NDArray[Any] | np.integer[Any] | int
Judged = tuple[str, int]
"""Outcome and items scored."""

SUITE_ITEMS = 4000
IDS = tuple(f"item-{number}" for number in range(SUITE_ITEMS))
PRODUCTION_RIGHT = 0.6
INTERIM_ANALYSES = 20
"""Of the group-sequential designs: every 200 items."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One row of the table: the source of its pairs, and their true discordance and difference."""

    source: str
    discordance: float
    difference: float

    def draw(self, random: np.random.Generator) -> Pairs:
        """Draw independent items, with flips in both directions by the true difference."""
        chance = random.random(SUITE_ITEMS)
        gained, lost = (self.discordance + self.difference) / 2, (self.discordance - self.difference) / 2
        gain = (chance < gained).astype(float) - (chance >= 1 - lost)
        same = (PRODUCTION_RIGHT - lost) / (1 - self.discordance)
        production = np.where(gain == 0, random.random(SUITE_ITEMS) < same, gain < 0).astype(float)
        return Pairs(IDS, production, production + gain)


@dataclass(frozen=True, eq=False)
class RealCell(Cell):
    """Real items drawn with replacement, with production's confidence; a score is 1 if the right answer leads.

    Gained and lost items keep their joint share; the true difference sets their proportion. Within each group items are
    drawn uniformly.
    """

    production: Array
    gain: Array
    edges: Array

    @classmethod
    def of(cls, source: str, production: Array, candidate: Array, difference: float) -> RealCell:
        """Make a cell of two models' log-probability differences on the same items."""
        gain = (candidate > 0).astype(float) - (production > 0)
        flips = float(np.abs(gain).mean())
        weight = np.ones(len(gain)) / len(gain)
        for sign in (1.0, -1.0):
            weight[gain == sign] = (flips + sign * difference) / 2 / np.count_nonzero(gain == sign)
        return cls(source, flips, difference, production, gain, np.cumsum(weight / weight.sum()))

    def draw(self, random: np.random.Generator) -> Pairs:
        """Draw a suite of items with replacement."""
        chosen = np.searchsorted(self.edges, random.random(SUITE_ITEMS)).clip(max=len(self.gain) - 1)
        right = (self.production[chosen] > 0).astype(float)
        return Pairs(IDS, right, right + self.gain[chosen], None, self.production[chosen])


def weighbridge(pairs: Pairs, margin: float) -> Judged:
    """Weighbridge's rule in the file's order."""
    decision = decide(Pairs(pairs.ids, pairs.production, pairs.candidate), margin=margin, confidence=0.95)
    return decision.outcome, decision.items_used


def weighbridge_by_confidence(pairs: Pairs, margin: float) -> Judged:
    """Weighbridge's rule in its own order, by production's confidence."""
    decision = decide(pairs, margin=margin, confidence=0.95)
    return decision.outcome, decision.items_used


def point_estimate(pairs: Pairs, margin: float) -> Judged:
    """A drop of more than one point on 300 items is a regression, anything else passes."""
    gain = (pairs.candidate - pairs.production)[:300].mean()
    return ("regression" if gain < -0.01 else "non_inferior"), 300


def unpaired(pairs: Pairs, margin: float) -> Judged:
    """Two independent proportions on the whole suite, bounds one-sided at 95 %."""
    items, (candidate, production) = len(pairs), (pairs.candidate.mean(), pairs.production.mean())
    spread = 1.6449 * np.sqrt((candidate * (1 - candidate) + production * (1 - production)) / items)
    return _by_bounds(candidate - production - spread, candidate - production + spread, margin), items


def fixed_paired(pairs: Pairs, margin: float) -> Judged:
    """Tango's paired interval on the whole suite, bounds one-sided at 95 %."""
    gain = pairs.candidate - pairs.production
    deviate = float(tango(np.count_nonzero(gain > 0), np.count_nonzero(gain < 0), len(gain), -margin))
    outcome = "non_inferior" if deviate > 1.6449 else "regression" if deviate < -1.6449 else "inconclusive"
    return outcome, len(gain)


def group_sequential(spending: str) -> Callable[[Pairs, float], Judged]:
    """Tango's statistic at 20 interim analyses against alpha-spending boundaries, for passing only."""
    boundaries = spending_boundaries(spending, 0.05, INTERIM_ANALYSES)
    sizes = np.arange(1, INTERIM_ANALYSES + 1) * SUITE_ITEMS // INTERIM_ANALYSES

    def judge(pairs: Pairs, margin: float) -> Judged:
        gain = pairs.candidate - pairs.production
        gained, lost = np.cumsum(gain > 0)[sizes - 1], np.cumsum(gain < 0)[sizes - 1]
        passed = tango(gained, lost, sizes, -margin) > boundaries
        return ("non_inferior", int(sizes[passed.argmax()])) if passed.any() else ("inconclusive", len(gain))

    return judge


def tango(gained: Numbers, lost: Numbers, items: Numbers, null: float) -> Array:
    """Tango's statistic on arrays; the same as `tasks.evaluate.verdict.paired.tango_z`."""
    gained, lost, items = (np.asarray(value, dtype=float) for value in (gained, lost, items))
    b = -gained - lost + (2 * items - gained + lost) * null
    c = -lost * null * (1 - null)
    restricted = (np.sqrt(np.maximum(b * b - 8 * items * c, 0.0)) - b) / (4 * items)
    variance = items * (2 * restricted + null * (1 - null))
    return (gained - lost - items * null) / np.sqrt(np.maximum(variance, 1e-12))


@lru_cache
def spending_boundaries(spending: str, error: float, analyses: int) -> Array:
    """Boundaries on the z scale at equally spaced interim analyses that spend an error as a function of time.

    By recursive numerical integration of the score process (Armitage, McPherson and Rowe, JRSS A 132, 1969) for the
    spending functions of Lan and DeMets (Biometrika 70, 1983): `pocock` or `obrien-fleming`.
    """
    normal = NormalDist()
    times = np.arange(1, analyses + 1) / analyses
    if spending == "pocock":
        spent = error * np.log(1 + (np.e - 1) * times)
    else:
        spent = np.array([2 - 2 * normal.cdf(normal.inv_cdf(1 - error / 2) / np.sqrt(time)) for time in times])
    step, grid = 0.005, np.arange(-5, 5, 0.005)
    increment = np.exp(-np.square(grid) * analyses / 2) * np.sqrt(analyses / (2 * np.pi)) * step
    density, boundaries = increment / step, []
    for number, time in enumerate(times):
        if number:
            size = 1 << 13
            product = np.fft.irfft(np.fft.rfft(density, size) * np.fft.rfft(increment, size), size)
            density = np.maximum(product[len(grid) // 2 : len(grid) // 2 + len(grid)], 0)
        to_spend = spent[number] - (spent[number - 1] if number else 0)
        tail = np.cumsum(density[::-1])[::-1] * step
        # Integration by FFT is exact to about 1e-16; an error smaller than that is not spent.
        cut = int((tail <= to_spend).argmax()) if to_spend > 1e-12 else len(grid) - 1
        boundaries.append(grid[cut] / np.sqrt(time))
        density = np.where(grid >= grid[cut], 0, density)
    return np.array(boundaries)


def _by_bounds(low: float, high: float, margin: float) -> str:
    return "non_inferior" if low > -margin else "regression" if high < -margin else "inconclusive"
