"""Compare SmolLM2 with its quantizations and a damaged release on the general suites: docs/evidence/verdict.md.

Run `python -m benchmarks.suites`: ten minutes on two cores the first time, then seconds, because the
installation caches scores. No stack is needed. After each outcome comes the percentage of simulated candidates that
pass, if each item is gained or lost with the measured shares: the chance of another release of the same quality.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from examples import damage, smollm2
from registry.installation import Installation
from registry.store import Artifact, Store
from tasks.evaluate.scoring.lm_eval import LmEvalScorer, local_scorer_name, score_by_lm_eval
from tasks.evaluate.scoring.scores import ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import find_suite
from tasks.evaluate.verdict.paired import lower_bound
from tasks.evaluate.verdict.verdict import judge_suite
from tasks.quantize import quantize
from weighbridge.line import Line
from weighbridge.settings import load_settings

LINE = "smollm2"
LINE_IN_STORE = "benchmark"
"""Separates these artifacts, which have no commit, from those of a real release."""
DRAWS = 2000
SCHEMES = ("int8", "int8-w8a16", "int4")


def main() -> None:
    """Score everything that is not cached yet, and print the table as Markdown."""
    installation, line = Installation.load(), Line.load(LINE)
    store = installation.store
    published = _artifact(store, "published", smollm2.build)
    models = {scheme: quantize(installation, published, scheme) for scheme in SCHEMES}
    models["damaged"] = _artifact(store, "damaged", lambda folder: damage.damage(store.path(published), folder))
    margins = {use.name: use.margin for use in line.suites if use.name.startswith("general/")}
    reference = _scores(store, published, list(margins))
    print(f"{local_scorer_name()}\n")
    print(f"| suite (items) | margin | bf16 | {' | '.join(models)} |")
    print("| --- " * (len(models) + 3) + "|")
    compared = {name: _scores(store, artifact, list(margins)) for name, artifact in models.items()}
    for number, (suite, margin) in enumerate(margins.items()):
        cells = []
        for name in models:
            result = judge_suite(compared[name][number], reference[number], margin=margin, confidence=line.confidence)
            assert result.estimate is not None and result.low is not None and result.high is not None
            flips = f"+{result.gained}, −{result.lost}"
            interval = f"{result.low:+.1%} to {result.high:+.1%}"
            share = passing_share(result.gained, result.lost, len(reference[number].items), margin, line.confidence)
            cells.append(f"{result.estimate:+.1%} ({interval}) {flips}: {result.outcome} ({100 * share:.1f})")
        base = reference[number]
        print(f"| {suite} ({len(base.items)}) | {margin} | {base.mean:.1%} | {' | '.join(cells)} |")


def passing_share(gained: int, lost: int, items: int, margin: float, confidence: float) -> float:
    """Share of simulated suites of the same size that pass, with the measured shares of gained and lost items."""
    shares = np.array([gained, lost, items - gained - lost]) / items
    drawn, counts = np.unique(np.random.default_rng(0).multinomial(items, shares, DRAWS), axis=0, return_counts=True)
    lows = [lower_bound(int(plus), int(minus), items, confidence) for plus, minus, _ in drawn]
    return float(counts[np.array(lows) > -margin].sum() / DRAWS)


def _scores(store: Store, artifact: Artifact, suites: list[str]) -> list[SuiteScores]:
    def progress(suite: str, done: int, total: int) -> None:
        if done == total:
            print(f"{artifact.scheme} {artifact.short}: {suite} scored", file=sys.stderr)

    settings = load_settings()
    scoring = LmEvalScorer(artifact.digest, store.path(artifact))
    return score_by_lm_eval(
        scoring, [find_suite(name) for name in suites], ScoreCache.of(settings), settings.logs_folder, progress=progress
    )


def _artifact(store: Store, name: str, make: Callable[[Path], object]) -> Artifact:
    with store.fresh_staging(LINE_IN_STORE, f"benchmark-{name}") as folder:
        make(folder / "model")
        return store.adopt(folder / "model", line=LINE_IN_STORE, scheme="bf16", repo=smollm2.REPO, commit="0" * 40)


if __name__ == "__main__":
    main()
