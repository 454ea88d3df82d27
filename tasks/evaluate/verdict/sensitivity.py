"""Whether a suite could have shown a loss at all: two models that are broken alike agree perfectly.

Clinical trials of non-inferiority call it assay sensitivity (ICH E10, 2000): a comparison proves nothing unless the
comparator is known to work in it. Here production must do better than a model without any information, by more than
the margin, and neither side may give one answer to nearly everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.suites.assertions.kinds.refusal import is_refusal
from tasks.evaluate.verdict.paired import binomial_cdf

MAX_SAME_SHARE = 0.9
"""Largest share of a suite's answers that may be one and the same, or refusals."""
FEW_ANSWERS = 20
"""With fewer answers than this, one of them often is the commonest by nature."""
BISECTIONS = 40


def why_insensitive(candidate: SuiteScores, production: SuiteScores, *, margin: float, confidence: float) -> str:
    """Say why agreement of two models on a suite proves nothing; empty where it does.

    Error: a suite on which production is truly no better than chance by the margin is taken for a sensitive one at
    most 1 - confidence of the time. The bound is exact (Clopper and Pearson 1934) for items that are right or wrong;
    for graded items and for clusters, which count as `independent_units`, it is simulated (benchmarks/sensitivity.py).
    The other rules are fixed shares, without an error rate.

    Args:
        candidate: comparable scores, all of them or those of the items scored so far.
        production: all of production's scores.
        margin: as for `judge_suite`.
        confidence: as for `judge_suite`.
    """
    for side, scores in (("Production", production), ("The candidate", candidate)):
        if problem := _answers_alike(scores.items):
            return f"{side} {problem}, so that agreement proves nothing. Look at its answers and its chat template."
    units = independent_units([(item.cluster, None if item.cluster else item.id) for item in production.items])
    chance = sum(item.chance or 0.0 for item in production.items) / len(production.items)
    least = lower_share(production.mean, units, 1 - confidence)
    if least > chance + margin:
        return ""
    kind = f"chance ({chance:.1%})" if chance else "a model that answers nothing"
    return (
        f"Production scores {production.mean:.1%} (at least {least:.1%}), which is not shown to be better than {kind} "
        f"by the margin of {margin:.1%}: a broken candidate would pass too. Repair production's scoring, or replace "
        "the items that it cannot answer."
    )


def visible_loss(production: SuiteScores) -> float:
    """The largest loss that a suite can show, 0 to 1: what production scores above chance."""
    return max(production.mean - sum(item.chance or 0.0 for item in production.items) / len(production.items), 0.0)


def independent_units(clusters: Sequence[Hashable]) -> int:
    """Number of independent units as good as items in clusters of whatever sizes, if the items of one are all alike.

    The squared sum of the sizes by the sum of their squares (Kish, Survey Sampling, 1965, 8.2): as many as there are
    clusters if all are of one size, and hardly more than one beside a cluster that has nearly all items.

    Args:
        clusters: each item's cluster.
    """
    sizes = Counter(clusters).values()
    return sum(sizes) ** 2 // sum(size**2 for size in sizes)


def lower_share(mean: float, units: int, error: float) -> float:
    """Lower bound of a share, from its mean over independent units (Clopper and Pearson, Biometrika 26, 1934)."""
    successes = int(mean * units + 1e-9)
    if successes == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - binomial_cdf(successes - 1, units, middle) <= error else (low, middle)
    return low


def _answers_alike(items: Sequence[ItemScore]) -> str:
    answers = [item.answer.strip().lower() for item in items if item.answer.strip() and item.trouble != "error"]
    if len(answers) < FEW_ANSWERS:
        return ""
    commonest, count = Counter(answers).most_common(1)[0]
    if count > MAX_SAME_SHARE * len(answers):
        return f"gives the same answer to {count} of {len(answers)} items ({commonest[:40]!r})"
    refusals = sum(map(is_refusal, answers))
    if refusals > MAX_SAME_SHARE * len(answers):
        return f"refuses {refusals} of {len(answers)} items"
    return ""
