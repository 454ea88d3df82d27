"""Stratified order: items on which production was unsure are drawn more often, and count less.

A model's flips concentrate where production's two best answers were close (measured: a third of the lowest tenth by
|confidence|, none in the top quarter). Each next item is drawn from a stratum of |confidence| with a known probability,
and its difference is divided by the stratum's draw rate relative to its share. The mean of these is the suite's mean
difference whatever the confidence is worth, so the bets of `betting` stay valid. Their variance is smaller when the
confidence does predict flips (Horvitz and Thompson, JASA 47, 1952; Neyman's allocation, 1934; both with
betting, as in Shekhar, Xu, Lipton, Liang and Ramdas, Risk-limiting financial audits via weighted sampling without
replacement, UAI 2023).

The probabilities are updated from time to time, from earlier scores alone, to those whose bets grow fastest. With few
flips that is close to an even draw: even weights of 2 limit the evidence of an item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.evaluate.verdict.sequential.betting import Array, Walk, best_bet
from tasks.evaluate.verdict.sequential.order import DOUBT_ITEMS, EXPECTED_FLIPS, EXPECTED_WORTH_ITEMS, shuffled

EDGES, EXPECTED_SHARES = (0.1, 0.2, 0.3, 0.5, 0.75), (2.5, 1.6, 1.2, 0.9, 0.6, 0.45)
"""Strata by rank of |confidence|, and their expected flips relative to the mean: measured, shrunk towards 1."""
SMALL_SUITE_ITEMS, SMALL_EDGES, SMALL_SHARES = 300, (0.25, 0.5), (1.8, 0.95, 0.65)
STRATUM_WORTH_ITEMS = 60
"""Weight of the prior from all strata together, in items of a stratum."""
FIRST_BLOCK_ITEMS, GROWTH = 40, 1.4
"""Probabilities are updated after the first block, and then whenever the items read have grown by this factor."""
RESERVE = 1.2
"""Draws are paced so that no stratum runs dry before this multiple of the items that are expected to be needed."""
SAFE_SHARE = 0.9
"""Largest share of the stake that the heaviest item may cost; 5 % more is tolerated."""
BET_GRID = np.geomspace(0.02, 0.9, 16)


@dataclass(slots=True)
class _Strata:
    """Running statistics of each stratum."""

    share: Array
    expected: Array
    left: NDArray[np.int64]
    squares: Array = field(init=False)
    drawn: Array = field(init=False)

    def __post_init__(self) -> None:
        self.squares, self.drawn = np.zeros(len(self.share)), np.zeros(len(self.share))

    def flips(self) -> Array:
        """Mean squared difference expected of each stratum's next item."""
        prior = EXPECTED_WORTH_ITEMS
        scale = (self.squares.sum() + EXPECTED_FLIPS * prior) / ((self.drawn * self.expected).sum() + prior)
        worth = STRATUM_WORTH_ITEMS
        return np.minimum((self.squares + worth * scale * self.expected) / (self.drawn + worth), 1.0)


def walk_strata(gain: Array, confidence: Array, ids: tuple[str, ...], margin: float, error: float) -> Walk:
    """Read items in the order that settles the question soonest.

    The order depends on the ids, the confidence and the scores read so far, never on unread scores. It ends once the
    stake suffices, or where a stratum runs dry, because no unbiased draw is left then.

    Args:
        gain: candidate minus production of each item.
        confidence: production's confidence in each answer; only the order of its absolute values counts.
        ids: names of the items.
        margin: the largest loss that still counts as no worse.
        error: of passing; the expected number of items follows from it.
    """
    blocks = list(_blocks(gain, confidence, ids, margin, error))
    columns = [np.concatenate(column) for column in zip(*(bets for _, bets in blocks))]
    done = len(columns[0])
    return Walk(
        gain=columns[0],
        size=np.ones(done),
        items=np.arange(1, done + 1),
        passing=columns[1],
        worse=(columns[2], columns[3]),
        real=(columns[4], columns[5]),
    )


def order_so_far(
    gain: Array, confidence: Array, ids: tuple[str, ...], margin: float, error: float, scored: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The same order while a candidate is being scored, up to and including the first block with an unscored item.

    Args:
        gain: as for `walk_strata`; gains of unscored items are not read.
        confidence: as for `walk_strata`.
        ids: as for `walk_strata`.
        margin: as for `walk_strata`.
        error: as for `walk_strata`.
        scored: whether each item is scored.

    Returns:
        Places of items; shorter than the suite where the walk ends before it.
    """
    order = []
    for items, _ in _blocks(gain, confidence, ids, margin, error):
        order.append(items)
        if not scored[items].all():
            break
    return np.concatenate(order)


def _blocks(
    gain: Array, confidence: Array, ids: tuple[str, ...], margin: float, error: float
) -> Iterator[tuple[NDArray[np.int64], tuple[Array, ...]]]:
    """Items and walk columns of each block; a block depends on earlier blocks alone."""
    queues = _strata(np.abs(confidence), ids)
    sizes = np.array([len(queue) for queue in queues])
    shares = EXPECTED_SHARES if len(queues) == len(EXPECTED_SHARES) else SMALL_SHARES
    expected = np.array(shares[: len(queues)])
    strata = _Strata(sizes / len(gain), expected / (expected @ sizes) * len(gain), sizes.copy())
    points = _even_points(confidence, ids)
    log_stake, total, done, dry = 0.0, 0.0, 0, False
    while done < len(gain) and not dry and log_stake < -np.log(error):
        block = min(max(FIRST_BLOCK_ITEMS, int(done * (GROWTH - 1))), len(gain) - done)
        rate, bet = _allocate(strata, margin, max(-np.log(error) - log_stake, 0.1))
        drawn, dry = _draw(points[done : done + block], rate * strata.share, strata.left)
        where = sizes - strata.left
        strata.left = strata.left - np.bincount(drawn, minlength=len(sizes))
        items = np.empty(len(drawn), dtype=np.int64)
        for number, queue in enumerate(queues):
            chosen = drawn == number
            items[chosen] = queue[where[number] : where[number] + np.count_nonzero(chosen)]
        weighted = gain[items] / rate[drawn]
        yield items, (weighted, *_bets(strata, rate, bet, margin, total, done, len(drawn)))
        strata.squares += np.bincount(drawn, weights=np.square(gain[items]), minlength=len(sizes))
        strata.drawn += np.bincount(drawn, minlength=len(sizes))
        log_stake += float(np.log(1 + bet * (weighted + margin)).sum())
        total, done = total + float(weighted.sum()), done + len(drawn)


def _strata(certainty: Array, ids: tuple[str, ...]) -> list[NDArray[np.int64]]:
    """Items of each stratum, most uncertain stratum first, each in a random order; ties are broken at random."""
    order = shuffled(ids)
    ranked = order[np.argsort(certainty[order], kind="stable")]
    edges = EDGES if len(ids) >= SMALL_SUITE_ITEMS else SMALL_EDGES
    place = np.empty(len(ids), dtype=np.int64)
    place[order] = np.arange(len(ids))
    parts = np.split(ranked, [round(edge * len(ids)) for edge in edges])
    return [part[np.argsort(place[part])] for part in parts if len(part)]


def _allocate(strata: _Strata, margin: float, log_needed: float) -> tuple[Array, float]:
    """Draw rate of each stratum relative to its share, and the bet.

    For each bet of a grid, Neyman's allocation within the bounds of the bet and of the items left; then the bet whose
    stake grows fastest for a candidate that is no worse.

    Args:
        strata: statistics so far.
        margin: the largest loss that still counts as no worse.
        log_needed: growth of the stake's logarithm that is still needed.
    """
    flips, share = strata.flips(), strata.share
    left = int(strata.left.sum())
    bets = BET_GRID[:, None]
    horizon = float(left)
    for _ in range(2):
        # Draws of a stratum within the horizon may not exceed the items left in it.
        most = strata.left / max(horizon, 1.0) / share
        least = np.minimum(bets / (SAFE_SHARE - bets * margin).clip(1e-9), most)
        rate = _fill(np.sqrt(flips), share, least, most)
        heaviest = (bets / rate).max(1) + BET_GRID * margin
        base = 1 + bets * margin
        stake = np.log(base) + flips / 2 * np.log((1 - np.square(bets / rate / base)).clip(1e-12))
        growth = np.where(heaviest <= 1.05 * SAFE_SHARE, (rate * share * stake).sum(1), -np.inf)
        best = int(growth.argmax())
        if growth[best] <= 0:
            break
        horizon = float(np.clip(RESERVE * log_needed / growth[best], min(2 * FIRST_BLOCK_ITEMS, left), left))
    bet = float(BET_GRID[best])
    if not np.isfinite(growth[best]):
        rate, bet = strata.left[None, :] / left / share, 0.0
        best = 0
    return rate[best], bet


def _fill(wish: Array, share: Array, least: Array, most: Array) -> Array:
    """Rates in proportion to `wish` within bounds, one row a bet, whose mean over the suite is 1."""
    low, high = np.full(len(least), 0.05), np.full(len(least), 50.0)
    for _ in range(10):
        middle = np.sqrt(low * high)
        over = np.minimum(np.maximum(middle[:, None] * wish, least), most) @ share > 1
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    rate = np.minimum(np.maximum(high[:, None] * wish, least), most)
    # Normalise to a mean of exactly 1: draws must have the rates by which differences are divided.
    return rate / (rate @ share)[:, None]


def _even_points(confidence: Array, ids: tuple[str, ...]) -> Array:
    """One point of the unit interval per item, which picks its stratum: each uniform, together evenly spread.

    Independent points would suffice on average over suites. But one suite judges many candidates with the same points,
    and too few draws from a stratum would affect all of them (measured: 6.0 instead of 5 % of bad candidates passed one
    such suite). Multiples of the golden ratio from a random start (a Kronecker sequence) keep the number of draws from
    each stratum within a few of its expected number at all times.
    """
    content = np.ascontiguousarray(confidence[shuffled(ids)]).tobytes()
    start = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") / 2**64
    return (start + np.arange(len(ids)) * (np.sqrt(5) - 1) / 2) % 1.0


def _draw(points: Array, chance: Array, left: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
    """Strata of the next items, up to the one that empties a stratum; and whether one did."""
    edges = np.cumsum(chance / chance.sum())
    drawn = np.minimum(np.searchsorted(edges, points, side="right"), len(chance) - 1)
    counts = np.cumsum(drawn[:, None] == np.arange(len(chance)), axis=0)
    empty = (counts >= left).any(1)
    if not empty.any():
        return drawn, False
    return drawn[: int(empty.argmax()) + 1], True


def _bets(
    strata: _Strata, rate: Array, bet: float, margin: float, total: float, done: int, block: int
) -> tuple[Array, ...]:
    """The bets of one block: on passing, on worse than the margin (two), on a real loss (two)."""
    moment = float((strata.share * strata.flips() / rate).sum())
    most = SAFE_SHARE / (1 / rate.min() + margin)
    difference = total / (done + DOUBT_ITEMS)
    aims = (margin, max(margin, -difference - margin), 2 * margin, max(2 * margin, -difference))
    against = [min(float(best_bet(moment, aim)), most) if bet else 0.0 for aim in aims]
    return tuple(np.full(block, size) for size in (bet, *against))
