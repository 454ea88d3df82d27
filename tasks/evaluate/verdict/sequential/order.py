"""The order of items where production's confidence is not known, and the bets on them."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tasks.evaluate.verdict.sequential.betting import LARGEST_BET, Array, Walk, best_bet

EXPECTED_FLIPS = 0.05
"""Prior mean squared difference of an item; INT8 models flip 2 to 10 % of answers."""
EXPECTED_WORTH_ITEMS = 40
"""Weight of that prior, in items. Measured: 100 to 400 cost 1 to 2 % more."""
DOUBT_ITEMS = 20
"""Items without a difference that the running difference starts from."""


def walk_items(gain: Array, margin: float) -> Walk:
    """Item by item, in the order given.

    Args:
        gain: candidate minus production of each item, -1 to 1.
        margin: the bets aim at a candidate that is not worse at all, and at one that is worse by twice the margin.
    """
    return place_bets(gain, np.ones_like(gain), np.arange(1, len(gain) + 1), margin)


def walk_clusters(gain: Array, clusters: NDArray[np.int64], margin: float) -> Walk:
    """Cluster by cluster: all items of a cluster are read together, because they may flip together.

    Clusters that are contiguous in the file keep its order. Where they are interleaved, neither the order of first
    items nor that of last items is fair (large clusters begin early and end late), so they are shuffled, always in the
    same way.

    Args:
        gain: candidate minus production of each item.
        clusters: each item's cluster, numbered from 0 without gaps in the order of first appearance.
        margin: as for `walk_items`.
    """
    sizes = np.bincount(clusters).astype(float)
    sums = np.bincount(clusters, weights=gain)
    if np.count_nonzero(np.diff(clusters)) + 1 > len(sizes):
        order = np.random.default_rng(len(sizes)).permutation(len(sizes))
        sizes, sums = sizes[order], sums[order]
    largest = sizes.max()
    return place_bets(sums / largest, sizes / largest, np.cumsum(sizes).astype(np.int64), margin)


def place_bets(gain: Array, size: Array, items: NDArray[np.int64], margin: float) -> Walk:
    """Place each step's bet by the earlier steps' results.

    The bets may use the sizes of later clusters, but not their scores.
    """
    expected_size = np.arange(len(gain)) * size.mean()
    expected_worth = EXPECTED_WORTH_ITEMS / (items[-1] / len(gain))
    expected_moment = EXPECTED_FLIPS * float(np.mean(size * size))
    before = np.arange(len(gain)) + expected_worth
    moment = (_before(gain * gain) + expected_worth * expected_moment) / before
    difference = _before(gain) / (expected_size + DOUBT_ITEMS * size.mean())
    typical, most = size.mean(), LARGEST_BET / (1 + margin)

    def bet(aim: Array | float) -> Array:
        return np.minimum(best_bet(moment, np.asarray(aim) * typical), most)

    return Walk(
        gain=gain,
        size=size,
        items=items,
        passing=bet(margin),
        # Half the stake expects two margins, the other half the loss so far: a broken model shows at once.
        worse=(bet(margin), bet(np.maximum(margin, -difference - margin))),
        real=(bet(2 * margin), bet(np.maximum(2 * margin, -difference))),
    )


@lru_cache(maxsize=2)
def shuffled(ids: tuple[str, ...]) -> NDArray[np.int64]:
    """A random order that depends on the set of ids alone, the same for every candidate and every run.

    The array is shared between callers, who must not write to it.
    """
    joint = hashlib.blake2b("\n".join(sorted(ids)).encode(), digest_size=16).digest()
    drawn = [hashlib.blake2b(id.encode(), digest_size=8, key=joint).digest() for id in ids]
    return np.argsort(np.frombuffer(b"".join(drawn), dtype=">u8"), kind="stable")


def renumbered(clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Clusters numbered from 0 without gaps, in the order of first appearance."""
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _before(values: Array) -> Array:
    """Sum of all earlier values at each place."""
    return np.concatenate([[0.0], np.cumsum(values)[:-1]])
