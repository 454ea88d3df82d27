"""Bounds of a whole suite at once, without interim analyses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.evaluate.verdict.paired import loss_p_value, lower_bound, upper_bound
from tasks.evaluate.verdict.sequential.betting import LARGEST_BET, Array, best_bet, bound, log_stakes
from tasks.evaluate.verdict.sequential.decide import is_binary
from tasks.evaluate.verdict.sequential.levels import Levels
from tasks.evaluate.verdict.sequential.order import EXPECTED_FLIPS, renumbered, shuffled, walk_clusters, walk_items
from tasks.evaluate.verdict.sequential.pairs import Pairs


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of the difference, candidate minus production, and the p-value of a loss."""

    low: float
    """One-sided at the confidence."""
    high: float
    """One-sided at the confidence of a regression (`Levels.worse_confidence`)."""
    loss_p_value: float
    """P-value of the hypothesis that there is no loss."""


def judge_complete(pairs: Pairs, levels: Levels) -> Bounds:
    """Bounds from all items of a suite; no error is spent on interim analyses.

    Independent items with scores of 0 and 1 get Tango's fixed-size interval. Graded or clustered items get
    bets in a fixed random order: wider (about 1.5 times), but right for any distribution and few clusters.

    Args:
        pairs: scores without a missing one.
        levels: the margin and the error rates.
    """
    independent = pairs.clusters is None or len(np.unique(pairs.clusters)) == len(pairs)
    gain = pairs.candidate - pairs.production
    passing, worse = levels.passing[0], levels.worse[0]
    if independent and is_binary(pairs):
        gained, lost = int((gain > 0).sum()), int((gain < 0).sum())
        return Bounds(
            lower_bound(gained, lost, len(pairs), 1 - passing),
            upper_bound(gained, lost, len(pairs), 1 - worse),
            loss_p_value(gained, lost),
        )
    order = shuffled(pairs.ids)
    if independent or pairs.clusters is None:
        walk = walk_items(gain[order], levels.margin)
    else:
        walk = walk_clusters(gain[order], renumbered(pairs.clusters[order]), levels.margin)
    steps, typical_size = len(walk.gain), float(np.mean(walk.size * walk.size))
    squares = np.concatenate([[0.0], np.cumsum(np.square(walk.gain))[:-1]])
    moment = (squares + EXPECTED_FLIPS * typical_size) / np.arange(1, steps + 1)

    def bets(error: float) -> tuple[Array, ...]:
        # Aimed at the smallest difference that this number of steps can show, as `betting`'s source does for a fixed
        # size.
        aim = np.sqrt(2 * np.log(1 / error) * moment / steps)
        return (np.minimum(best_bet(moment, aim), LARGEST_BET / 2),)

    stake = float(log_stakes(walk, bets(levels.real_error), 0.0, -1.0)[-1])
    return Bounds(
        bound(walk, bets(passing), 1.0, steps, passing),
        bound(walk, bets(worse), -1.0, steps, worse),
        float(np.exp(-max(stake, 0.0))),
    )
