"""How often a suite at chance is taken for one that can show a loss: graded items and clusters of every size.

    python -m benchmarks.sensitivity [--draws 4000] [--seed 1]

Beside it the obvious alternative, in which each cluster counts as one item whatever its size. Both are meant to stay
at 5 %. Items of one cluster are all alike here, which is the worst case.
"""

from __future__ import annotations

import argparse
from functools import cache

import numpy as np

from tasks.evaluate.verdict.sensitivity import independent_units, lower_share

ERROR = 0.05
CHANCES = (0.05, 0.25, 0.5, 0.8)
SCORES = ("right or wrong", "graded", "half marks")


def layouts(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Sizes of a suite's clusters, by the layout's name."""
    return {
        "60 items": np.ones(60, int),
        "20 clusters of 10": np.full(20, 10),
        "one of 100, 50 of 1": np.array([100, *[1] * 50]),
        "60 of geometric sizes, mean 10": rng.geometric(0.1, 60),
        "two of 40, 30 of 2": np.array([40, 40, *[2] * 30]),
    }


def draw(rng: np.random.Generator, scores: str, chance: float, size: tuple[int, int]) -> np.ndarray:
    """Scores of clusters of a model without information, whose mean is chance."""
    if scores == "graded":
        return rng.beta(2 * chance, 2 * (1 - chance), size)
    if scores == "half marks" and chance <= 0.5:
        return 0.5 * (rng.random(size) < 2 * chance)
    return (rng.random(size) < chance).astype(float)


def share_wrong(drawn: np.ndarray, sizes: np.ndarray, units: int, chance: float) -> float:
    """Share of suites whose lower bound lies above what is true of all of them."""
    bound = cache(lambda successes: lower_share(successes / units, units, ERROR))
    successes = (drawn @ sizes / sizes.sum() * units + 1e-9).astype(int)
    return float(np.mean([bound(int(number)) > chance for number in successes]))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    print("| suite | scores | chance | taken for sensitive | a cluster as one item |\n| --- | --- | --- | --- | --- |")
    for name, sizes in layouts(rng).items():
        units = independent_units([number for number, size in enumerate(sizes) for _ in range(size)])
        for scores in SCORES:
            for chance in CHANCES:
                drawn = draw(rng, scores, chance, (arguments.draws, len(sizes)))
                ours, plain = (share_wrong(drawn, sizes, count, chance) for count in (units, len(sizes)))
                print(f"| {name} | {scores} | {chance:.0%} | {ours:.1%} | {plain:.1%} |")


if __name__ == "__main__":
    main()
