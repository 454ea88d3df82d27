"""Error rates and items scored of each decision rule: the tables and the figure of docs/evidence/verdict.md.

Run `python -m benchmarks.verdict_errors --quick` (half a minute), or in full

    python -m benchmarks.verdict_errors --pairs BLIMP --models fp32=FOLDER int8=FOLDER int4=FOLDER --plot errors.png

Synthetic suites of 4,000 items need nothing; real suites are resampled minimal pairs, scored and cached by
`benchmarks.blimp_pairs`. `--jobs 2` draws two cells at a time. All seeds are fixed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist

import numpy as np

from benchmarks import verdict_cells as cells
from benchmarks.blimp_pairs import DEFAULT_CACHE, log_probability_differences, read_pairs
from tasks.evaluate.verdict.sequential import items_needed

MARGIN = 0.02
DISCORDANCES = (0.02, 0.05, 0.10, 0.20)
INT8_LIKE = (0.02, 0.05, 0.10)
Results = list[tuple[cells.Cell, dict[str, "Rates"]]]
Rule = Callable[[cells.Pairs, float], cells.Judged]


@dataclass(frozen=True)
class Rates:
    """Verdicts of one rule in one cell."""

    passed: float
    regressions: float
    items: float
    """Mean number of items scored."""


def rules(with_confidence: bool) -> dict[str, Rule]:
    """List the compared rules, Weighbridge's first."""
    weighbridge: dict[str, Rule] = {"Weighbridge": cells.weighbridge}
    if with_confidence:
        weighbridge["Weighbridge, by confidence"] = cells.weighbridge_by_confidence
    return {
        **weighbridge,
        "fixed paired": cells.fixed_paired,
        "fixed unpaired": cells.unpaired,
        "1 point at n = 300": cells.point_estimate,
        "Pocock, 20 analyses": cells.group_sequential("pocock"),
        "O'Brien-Fleming, 20 analyses": cells.group_sequential("obrien-fleming"),
    }


def judge_cell(cell: cells.Cell, draws: int, seed: int) -> dict[str, Rates]:
    """Draw suites of one cell, and apply every rule to each."""
    random = np.random.default_rng(seed)
    compared, counts = None, {}
    for _ in range(draws):
        pairs = cell.draw(random)
        if compared is None:
            compared = rules(pairs.production_confidence is not None)
            counts = {name: np.zeros(3) for name in compared}
        for name, rule in compared.items():
            outcome, items = rule(pairs, MARGIN)
            counts[name] += (outcome == "non_inferior", outcome == "regression", items)
    return {name: Rates(*(count / draws)) for name, count in counts.items()}


def paired_items(discordance: float, power: float, draws: int = 40_000) -> int:
    """Smallest fixed size at which Tango's test passes a candidate without loss with this power, by simulation."""
    low, high = 10, 40_000
    while high - low > max(2, low // 200):
        middle = (low + high) // 2
        flips = np.random.default_rng(11).multinomial(
            middle, [discordance / 2, discordance / 2, 1 - discordance], size=draws
        )
        passed = (cells.tango(flips[:, 0], flips[:, 1], middle, -MARGIN) > NormalDist().inv_cdf(0.95)).mean()
        low, high = (low, middle) if passed >= power else (middle, high)
    return high


def unpaired_items(power: float) -> int:
    """The same for two independent proportions, by the usual formula; items for each model."""
    normal, variance = NormalDist(), 2 * cells.PRODUCTION_RIGHT * (1 - cells.PRODUCTION_RIGHT)
    return int(np.ceil(variance * ((normal.inv_cdf(0.95) + normal.inv_cdf(power)) / MARGIN) ** 2))


def print_errors(results: Results) -> None:
    """Print shares of verdicts, a row for each cell and a column for each rule: passed / regression, mean items."""
    names = [*rules(with_confidence=True)]
    print(f"\n| pairs, flips | true difference | {' | '.join(names)} |\n| --- | --- |{' --- |' * len(names)}")
    for cell, rates in results:
        row = [
            f"{rates[name].passed:.1%} / {rates[name].regressions:.1%}, {rates[name].items:.0f}"
            if name in rates
            else ""
            for name in names
        ]
        print(f"| {cell.source}, {cell.discordance:.1%} | {cell.difference:+.2f} | {' | '.join(row)} |")


def print_items(results: Results) -> None:
    """Print the items needed at equal error rates, for a candidate without loss."""
    print(
        "\n| flips | power | Weighbridge | fixed paired, same power | of 90 % | fixed unpaired, same power | of 90 % |"
    )
    print("| --- " * 7 + "|")
    sums = np.zeros(5)
    for cell, rates in results:
        if cell.difference == 0 and cell.source == "synthetic" and cell.discordance in INT8_LIKE:
            power = min(rates["Weighbridge"].passed, 0.999)
            row = (
                rates["Weighbridge"].items,
                paired_items(cell.discordance, power),
                paired_items(cell.discordance, 0.9),
                unpaired_items(power),
                unpaired_items(0.9),
            )
            sums += row
            print(f"| {cell.discordance:.0%} | {power:.1%} | {' | '.join(f'{value:,.0f}' for value in row)} |")
    means, ratios = sums / len(INT8_LIKE), sums[0] / sums
    print(f"| mean | | {' | '.join(f'{value:,.0f}' for value in means)} |")
    print(f"| Weighbridge / this | | {' | '.join(f'{value:.2f}' for value in ratios)} |")
    print("\n| flips | items for a 90 % chance of passing, by the planner |\n| --- | --- |")
    for discordance in DISCORDANCES:
        print(f"| {discordance:.0%} | {items_needed(MARGIN, 0.95, discordance):,} |")


def plot(results: Results, target: Path, draws: int) -> None:
    """Draw the share that passes by the true difference, and the items for a candidate without loss."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    truths = np.linspace(-2, 0.5, 11)
    curves = [
        judge_cell(cells.Cell("synthetic", 0.05, truth * MARGIN), draws, 100 + n) for n, truth in enumerate(truths)
    ]
    for name, style in (
        ("Weighbridge", "-"),
        ("fixed paired", "--"),
        ("fixed unpaired", "-."),
        ("1 point at n = 300", ":"),
    ):
        left.plot(truths, [100 * curve[name].passed for curve in curves], style, label=name)
        shown = [
            (cell.discordance, rates[name].items)
            for cell, rates in results
            if cell.source == "synthetic" and cell.difference == 0
        ]
        if name == "Weighbridge":
            right.plot(
                *zip(*[(100 * flips, items) for flips, items in shown]), style, marker="o", label="Weighbridge, mean"
            )
    left.axhline(5, color="grey", linewidth=0.7)
    left.axvline(-1, color="grey", linewidth=0.7)
    left.set(xlabel="true difference / margin", ylabel="passed, %", title="4,000 items, 5 % flips, margin 0.02")
    flips = np.array(DISCORDANCES)
    right.plot(
        100 * flips, [paired_items(share, 0.9) for share in flips], "--", marker="s", label="fixed paired, 90 % power"
    )
    right.axhline(unpaired_items(0.9), linestyle="-.", color="tab:green", label="fixed unpaired, 90 % power")
    right.set(xlabel="flips, %", ylabel="items", yscale="log", title="items for a candidate without loss")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    figure.savefig(target, dpi=110)


def all_cells(options: argparse.Namespace) -> list[cells.Cell]:
    """List the synthetic cells, and resampled cells if pairs and models are options."""
    synthetic = [
        cells.Cell("synthetic", discordance, difference)
        for difference in (0.0, -MARGIN, -2 * MARGIN)
        for discordance in DISCORDANCES
        if discordance >= -difference
    ]
    if options.pairs is None:
        return synthetic
    items = read_pairs(options.pairs, options.items)
    (_, production), *candidates = [
        (name, log_probability_differences(Path(folder), items, options.cache))
        for name, _, folder in (text.partition("=") for text in options.models)
    ]
    return synthetic + [
        cells.RealCell.of(f"SmolLM2 {name}", production, candidate, difference)
        for name, candidate in candidates
        for difference in (0.0, -MARGIN, -2 * MARGIN)
    ]


def main() -> None:
    """Draw every cell and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 draws a cell instead of --draws")
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--pairs", type=Path, help="folder of BLiMP's JSON-lines files")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME=FOLDER", help="production first")
    parser.add_argument("--items", type=int, default=4000, help="minimal pairs to score")
    parser.add_argument("--only", default="", help="only cells whose source has this text")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--plot", type=Path, help="write the figure here")
    options = parser.parse_args()
    draws, start = (300 if options.quick else options.draws), time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    drawn, seeds = zip(*[(cell, seed) for seed, cell in enumerate(all_cells(options)) if options.only in cell.source])
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("fork")) as pool:
        rates = pool.map(judge_cell, drawn, [draws] * len(drawn), seeds)
        results = list(zip(drawn, rates))
    print(f"{draws} draws a cell, margin {MARGIN}, confidence 0.95; each field: passed / regression, mean items")
    print_errors(results)
    if not options.only:
        print_items(results)
    if options.plot:
        plot(results, options.plot, max(draws // 10, 50))
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
