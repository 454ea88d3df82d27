"""Error rates of the verdict in adverse cases: the second table of docs/evidence/verdict.md.

Run `python -m benchmarks.verdict_levels [--draws 5000] [--only TEXT]`: each row is a candidate that is worse by
exactly the margin, drawn in a way that could mislead the test. `non_inferior` may occur with at most 1 - confidence,
`regression` with at most 2 × (1 - confidence). Rows marked (no loss) have no true difference: `regression` at most 1 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tasks.evaluate.verdict.sequential import Pairs, decide

Array = NDArray[np.float64]
Random = np.random.Generator
Drawn = tuple[Array, NDArray[np.int64] | None, Array | None]
"""Gain of each item, its cluster, production's confidence."""


@dataclass(frozen=True)
class Row:
    """One adverse case."""

    words: str
    draw: Callable[[Random], Drawn]
    margin: float = 0.02
    confidence: float = 0.95
    shuffle: bool = False


def flips(random: Random, items: int, discordance: float | Array, difference: float | Array) -> Array:
    """Draw the gains of independent items."""
    chance = random.random(items)
    gained, lost = (discordance + difference) / 2, (discordance - difference) / 2
    return (chance < gained).astype(float) - (chance >= 1 - lost)


def plain(items: int, discordance: float, margin: float = 0.02, confidence: float = 0.95) -> Row:
    """Make a case of independent items, in file order."""
    words = f"{items} items, {discordance:.1%} flips, margin {margin}, confidence {confidence}"
    return Row(words, lambda random: (flips(random, items, discordance, -margin), None, None), margin, confidence)


def drifting(random: Random, first: float, last: float) -> Drawn:
    """The share of flips changes along the file; the difference is constant."""
    return flips(random, 4000, np.linspace(first, last, 4000), -0.02), None, None


def sorted_by_loss(random: Random) -> Drawn:
    """All losses in the second half of the file."""
    return flips(random, 4000, 0.06, np.repeat([0.0, -0.04], 2000)), None, None


def finite(random: Random, discordance: float) -> Drawn:
    """One suite whose own difference is exactly minus the margin, in random order."""
    gained, lost = round(4000 * (discordance - 0.02) / 2), round(4000 * (discordance + 0.02) / 2)
    return random.permutation(np.repeat([1.0, -1.0, 0.0], [gained, lost, 4000 - gained - lost])), None, None


def clustered(random: Random, clusters: int, size: int, difference: float, mixed: bool) -> Drawn:
    """Whole clusters flip together; their items are adjacent in the file, or mixed."""
    gain = np.repeat(flips(random, clusters, 0.1, difference), size)
    numbers = np.repeat(np.arange(clusters), size)
    if mixed:
        order = random.permutation(len(gain))
        gain, numbers = gain[order], numbers[order]
        _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
        numbers = np.argsort(np.argsort(first))[inverse]
    return gain, numbers, None


def uneven_clusters(random: Random) -> Drawn:
    """Clusters of 1 to 40 items; the losses are in the large clusters."""
    sizes = random.choice([1, 2, 5, 40], p=[0.4, 0.3, 0.2, 0.1], size=600)
    chance = np.where(sizes == 40, 0.02 * 6.0 / 4.0, 0.0)
    return np.repeat(-(random.random(600) < chance).astype(float), sizes), np.repeat(np.arange(600), sizes), None


def skewed(random: Random, items: int, often: float) -> Drawn:
    """Graded: a small gain on most items, a total loss on a few, -0.02 on average."""
    small = (-0.02 + often) / (1 - often)
    return np.where(random.random(items) < often, -1.0, small), None, None


def graded(random: Random) -> Drawn:
    """Graded: differences uniform around -0.02."""
    return random.uniform(-0.32, 0.28, 2000), None, None


def with_confidence(random: Random, kind: str, discordance: float, difference: float = -0.02) -> Drawn:
    """Flips concentrated as measured, with a confidence that predicts them, is useless, or misleads."""
    profile = np.repeat([0.33, 0.12, 0.07, 0.035, 0.012, 0.0005], [400, 400, 400, 800, 1000, 1000])
    chance = np.minimum(profile * discordance / profile.mean(), 0.9)
    gain = flips(random, 4000, chance, difference * chance / chance.mean())
    order = random.permutation(4000)
    confidence = {"good": np.arange(4000.0), "useless": random.random(4000), "misleading": np.arange(4000.0)[::-1]}[
        kind
    ]
    return gain[order], None, confidence[order]


def rows() -> list[Row]:
    """List all cases."""
    sizes = [plain(items, share) for items in (50, 300, 1000, 4000) for share in (0.02, 0.06, 0.2)]
    margins = [plain(4000, 0.01, 0.005), plain(1000, 0.05, 0.005), plain(300, 0.1, 0.1), plain(1000, 0.3, 0.1)]
    confident = [plain(1000, share, confidence=level) for level in (0.9, 0.99) for share in (0.02, 0.1)]
    drift = [
        Row("flips rise from 2 to 30 % along the file", lambda random: drifting(random, 0.02, 0.3)),
        Row("flips fall from 30 to 2 %", lambda random: drifting(random, 0.3, 0.02)),
        Row("one suite of exactly -0.02, 4 % flips, reordered", lambda random: finite(random, 0.04)),
        Row("one suite of exactly -0.02, 20 % flips, reordered", lambda random: finite(random, 0.2)),
    ]
    clusters = [
        Row("400 clusters of 10 that flip as one", lambda random: clustered(random, 400, 10, -0.02, False)),
        Row("400 clusters of 10, mixed in the file", lambda random: clustered(random, 400, 10, -0.02, True)),
        Row("20 clusters of 50 (no loss)", lambda random: clustered(random, 20, 50, 0.0, False)),
        Row("400 clusters of 10 (no loss)", lambda random: clustered(random, 400, 10, 0.0, False)),
        Row("clusters of 1 to 40, losses in the large", uneven_clusters),
    ]
    scores = [
        Row("graded, evenly spread", graded),
        Row("graded, 3 % total losses, small gains elsewhere", lambda random: skewed(random, 2000, 0.03)),
        Row("graded, 2.1 % total losses, 300 items", lambda random: skewed(random, 300, 0.021)),
    ]
    ordered = [
        Row(f"by confidence, {kind}, {share:.0%} flips", partial(with_confidence, kind=kind, discordance=share))
        for kind in ("good", "useless", "misleading")
        for share in (0.02, 0.06, 0.2)
    ]
    fair = [
        Row("100 items, 20 % flips (no loss)", lambda random: (flips(random, 100, 0.2, 0.0), None, None)),
        Row("1000 items, 40 % flips (no loss)", lambda random: (flips(random, 1000, 0.4, 0.0), None, None)),
        Row("4000 items, 20 % flips, margin 0.005 (no loss)", lambda r: (flips(r, 4000, 0.2, 0.0), None, None), 0.005),
        Row("by confidence, good, 20 % flips (no loss)", lambda random: with_confidence(random, "good", 0.2, 0.0)),
    ]
    broken = [
        Row("NOT PROMISED: sorted file, losses in the second half", sorted_by_loss),
        Row("the same with --shuffle", sorted_by_loss, shuffle=True),
    ]
    return sizes + margins + confident + drift + clusters + scores + ordered + fair + broken


def main() -> None:
    """Print the shares of passes and regressions in each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--only", default="", help="only rows with this text")
    options = parser.parse_args()
    draws = options.draws
    print("| drawn | passed | regression | mean items |\n| --- | --- | --- | --- |")
    for number, row in enumerate(rows()):
        if options.only not in row.words:
            continue
        random, counts = np.random.default_rng(number), np.zeros(3)
        for _ in range(draws):
            gain, clusters, confidence = row.draw(random)
            ids = tuple(map(str, range(len(gain))))
            production = np.where(gain < 0, 1.0, 0.0)
            pairs = Pairs(ids, production, production + gain, clusters, confidence)
            decision = decide(pairs, margin=row.margin, confidence=row.confidence, shuffle=row.shuffle)
            counts += (decision.outcome == "non_inferior", decision.outcome == "regression", decision.items_used)
        passed, worse, items = counts / draws
        print(f"| {row.words} | {passed:.1%} | {worse:.1%} | {items:.0f} |", flush=True)


if __name__ == "__main__":
    main()
