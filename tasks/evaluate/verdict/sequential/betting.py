"""Testing by betting: a stake that can only grow if the hypothesis is wrong.

For a hypothesised difference, the test starts with a stake of 1 and bets a part of it on each item before its score is
read. If the hypothesis is true, the stake does not grow on average, and it ever reaches 1/error with a probability of
at most `error` (Ville's inequality), whenever the test stops. This needs no correction for interim analyses and no
approximation, and it holds for any distribution of bounded scores and any discordance, even one that drifts. Source:
Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS B 86 (2024) 1-27.

A bet may depend on all earlier scores, so it learns how often items flip. Bets never affect whether the test is valid,
only how soon it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LARGEST_BET = 0.95
"""Share of the largest bet that the stake survives, so that a single item never ruins it."""
BISECTIONS = 20
"""Halvings of a range of at most 2: bounds are exact to 2e-6, on the safe side."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Scores in the order of the test, with the bets that are placed before each score is read.

    A step is an item, or a whole cluster. `gain` is its candidate minus production, `size` how much of the
    hypothesised difference it should show; both scaled so that |gain| <= size <= 1 except under weights.
    """

    gain: Array
    size: Array
    items: NDArray[np.int64]
    """Items read after each step."""
    passing: Array
    """Each step's bet that the difference lies above the null."""
    worse: tuple[Array, ...]
    """Bets that the difference lies below minus the margin; each starts with an equal part of the stake."""
    real: tuple[Array, ...]
    """Bets that the difference lies below zero."""


def best_bet(second_moment: Array | float, aim: Array | float) -> Array:
    """The bet that makes the stake grow fastest when a step is worth `aim` more than the null, on average.

    The root of the derivative of E log(1 + bet × (x + aim)) for x of -1, 0 and 1 with the given second moment and
    mean 0, to first order in `aim` beside 1. At few flips it tends to 1, at many to Kelly's aim / second_moment.
    """
    moment = np.asarray(second_moment, dtype=float)
    return (np.sqrt(moment * moment + 4.0 * np.square(aim)) - moment) / (2.0 * np.asarray(aim))


def log_stakes(walk: Walk, bets: tuple[Array, ...], null: float, sign: float, steps: int | None = None) -> Array:
    """Logarithm of the stake after each step; of several bets, their mean.

    Args:
        null: the hypothesised difference.
        sign: 1 for bets on a larger difference, -1 on a smaller one.
        steps: number of the walk's first steps to use; all by default.
    """
    surplus = sign * (walk.gain[:steps] - null * walk.size[:steps])
    stakes = [np.cumsum(np.log(np.maximum(1.0 + bet[:steps] * surplus, 1e-300))) for bet in bets]
    if len(stakes) == 1:
        return stakes[0]
    highest = np.maximum.reduce(stakes)
    return highest + np.log(np.mean([np.exp(stake - highest) for stake in stakes], axis=0))


def bound(walk: Walk, bets: tuple[Array, ...], sign: float, steps: int, error: float) -> float:
    """The difference at which the stake after `steps` is just 1/error; everything beyond it is rejected.

    Returns:
        A lower bound for a sign of 1, an upper bound for -1; -1 or 1 when nothing is rejected.
    """
    gain, size = walk.gain[:steps], walk.size[:steps]
    parts = [bet[:steps] for bet in bets]
    # Each bet is monotone in the null, so their mean is too.
    rejected, accepted = -sign, sign
    threshold = -np.log(error) + np.log(len(parts))

    def enough(null: float) -> bool:
        surplus = sign * (gain - null * size)
        ends = [float(np.log(np.maximum(1.0 + part * surplus, 1e-300)).sum()) for part in parts]
        return bool(np.logaddexp.reduce(ends) >= threshold)

    if not enough(rejected):
        return rejected
    for _ in range(BISECTIONS):
        middle = (rejected + accepted) / 2
        rejected, accepted = (middle, accepted) if enough(middle) else (rejected, middle)
    return rejected


def first_at_least(values: Array, threshold: float) -> int | None:
    """The number of steps after which `values` first reach `threshold`, or None."""
    reached = values >= threshold
    at = int(reached.argmax()) if len(reached) else 0
    return at + 1 if len(reached) and reached[at] else None
