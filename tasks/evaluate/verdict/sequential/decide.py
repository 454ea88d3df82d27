"""The decision on one suite's paired scores, with interim analyses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tasks.evaluate.verdict.outcomes import Outcome
from tasks.evaluate.verdict.paired import loss_p_value, lower_bound, upper_bound
from tasks.evaluate.verdict.sequential.betting import Array, Walk, bound, first_at_least, log_stakes
from tasks.evaluate.verdict.sequential.levels import Levels
from tasks.evaluate.verdict.sequential.order import renumbered, shuffled, walk_clusters, walk_items
from tasks.evaluate.verdict.sequential.pairs import Pairs
from tasks.evaluate.verdict.sequential.planner import items_needed
from tasks.evaluate.verdict.sequential.stratified import walk_strata

MAX_LOST_SHARE = 0.01
"""Largest share of items whose score may be missing in a valid comparison."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one suite with its numbers (on a scale of 0 to 1)."""

    outcome: Outcome
    reason: str
    items: int
    items_used: int
    """Items whose candidate score was read."""
    estimate: float | None
    """Candidate minus production."""
    low: float | None
    """Lower bound of the difference, one-sided at the confidence."""
    high: float | None
    """Upper bound, one-sided at the confidence of `regression` (`Levels.worse_confidence`)."""


def decide(
    pairs: Pairs,
    *,
    margin: float,
    confidence: float,
    shuffle: bool = False,
    max_lost_share: float = MAX_LOST_SHARE,
) -> Decision:
    """Read candidate scores one by one and stop as soon as they settle the question.

    The difference is that of the population of questions from which the suite is a fair sample. There is no correction
    for a finite suite, so the error rates hold for the suite itself too, on the safe side.

    Args:
        pairs: the scores. They are read in an order of the test's own where production's confidence is given and items
            are independent; else in the order given, which must be random.
        margin: the largest loss that still counts as no worse, above 0 and below 1.
        confidence: one-sided, of `non_inferior`.
        shuffle: read items in a fixed random order instead of the order given.
        max_lost_share: largest share of lost scores in a valid comparison.
    """
    lost = int((np.isnan(pairs.candidate) | np.isnan(pairs.production)).sum())
    if lost > max_lost_share * len(pairs):
        problem = f"{lost} of {len(pairs)} items have no score; at most {max_lost_share:.0%} may be lost."
        return Decision("invalid", problem, len(pairs), 0, None, None, None)
    against = _decide(fill_lost(pairs, favour=False), margin, confidence, shuffle)
    if not lost or against.outcome == "non_inferior":
        return against
    favour = _decide(fill_lost(pairs, favour=True), margin, confidence, shuffle)
    assert against.low is not None and favour.low is not None and favour.high is not None
    low = min(against.low, favour.low)
    if favour.outcome == "regression":
        return replace(favour, low=low)
    both = favour.estimate, against.estimate
    reason = (
        f"not enough evidence: {both[1]:+.2%} if the {lost} lost scores are wrong, {both[0]:+.2%} if they are right, "
        f"margin {margin:.3g}, after {len(pairs)} items. Score the lost ones again."
    )
    high = max(favour.high, against.high or favour.high)
    return Decision("inconclusive", reason, len(pairs), len(pairs), against.estimate, low, high)


def fill_lost(pairs: Pairs, *, favour: bool) -> Pairs:
    """Replace lost scores, against the candidate or in its favour.

    Passing is decided against it, so that losing scores never helps a candidate; a regression in its favour, so that
    losing scores never makes one. Each decision then errs no more often than with all scores, whichever are lost.
    """
    best, worst = (1.0, 0.0) if favour else (0.0, 1.0)
    production = np.where(np.isnan(pairs.production), worst, pairs.production)
    candidate = np.where(np.isnan(pairs.candidate), best, pairs.candidate)
    return Pairs(pairs.ids, production, candidate, pairs.clusters, pairs.production_confidence)


def _decide(usable: Pairs, margin: float, confidence: float, shuffle: bool) -> Decision:
    if shuffle:
        usable = _take(usable, shuffled(usable.ids))
    gain = usable.candidate - usable.production
    independent = usable.clusters is None or len(usable) == int(usable.clusters.max()) + 1
    weighted = independent and usable.production_confidence is not None
    levels = Levels(margin, confidence, final_analysis=independent and is_binary(usable), weighted=weighted)
    if not independent and usable.clusters is not None:
        walk = walk_clusters(gain, usable.clusters, margin)
    elif weighted and usable.production_confidence is not None:
        walk = walk_strata(gain, usable.production_confidence, usable.ids, margin, levels.passing[0])
    else:
        walk = walk_items(gain, margin)
    return _stop_early(walk, levels, len(usable)) or _at_the_end(walk, gain, levels)


def is_binary(pairs: Pairs) -> bool:
    """Whether every score is 0 or 1."""
    return all(bool(((scores == 0) | (scores == 1)).all()) for scores in (pairs.production, pairs.candidate))


def _stop_early(walk: Walk, levels: Levels, items: int) -> Decision | None:
    passing, worse, real = levels.passing[0], levels.worse[0], levels.real[0]
    null = -levels.margin
    passes = first_at_least(log_stakes(walk, (walk.passing,), null, 1.0), -np.log(passing))
    worse_at = first_at_least(log_stakes(walk, walk.worse, null, -1.0, passes), -np.log(worse))
    real_at = first_at_least(log_stakes(walk, walk.real, 0.0, -1.0, passes), -np.log(real)) if worse_at else None
    fails = max(worse_at, real_at) if worse_at and real_at else None
    steps = fails or passes
    if steps is None:
        return None
    used, estimate = int(walk.items[steps - 1]), _estimate(walk, steps)
    low = bound(walk, (walk.passing,), 1.0, steps, passing)
    # Bounds of any step hold: the margin may have been exceeded before the loss itself was proven.
    high = min(bound(walk, walk.worse, -1.0, at, worse) for at in {steps, worse_at or steps})
    outcome: Outcome = "regression" if fails else "non_inferior"
    return _decision(outcome, items, used, estimate, low, high, levels)


def _at_the_end(walk: Walk, gain: Array, levels: Levels) -> Decision:
    steps, items = len(walk.gain), len(gain)
    low = bound(walk, (walk.passing,), 1.0, steps, levels.passing[0])
    high = bound(walk, walk.worse, -1.0, steps, levels.worse[0])
    real = first_at_least(log_stakes(walk, walk.real, 0.0, -1.0), -np.log(levels.real[0])) is not None
    outcome: Outcome = "inconclusive"
    if levels.final_analysis:
        gained, lost = int((gain > 0).sum()), int((gain < 0).sum())
        low = max(low, lower_bound(gained, lost, items, 1 - levels.passing[1]))
        high = min(high, upper_bound(gained, lost, items, 1 - levels.worse[1]))
        real = real or loss_p_value(gained, lost) <= levels.real[1]
    if low > -levels.margin:
        outcome = "non_inferior"
    elif high < -levels.margin and real:
        outcome = "regression"
    decision = _decision(outcome, items, items, float(gain.mean()), low, high, levels)
    needed = items_needed(levels.margin, levels.confidence, float(np.mean(gain * gain)))
    if outcome == "inconclusive" and needed > items:
        hint = f" A candidate that is no worse passes 9 times in 10 with {needed:,} items of this kind."
        decision = replace(decision, reason=decision.reason + hint)
    return decision


def _decision(
    outcome: Outcome, items: int, used: int, estimate: float, low: float, high: float, levels: Levels
) -> Decision:
    # A weighted mean of few items may leave the scale.
    estimate = max(-1.0, min(estimate, 1.0))
    low, high = max(min(low, estimate), -1.0), min(max(high, estimate), 1.0)
    change = f"{estimate:+.2%} ({low:+.2%} to {high:+.2%}), margin {levels.margin:.3g}, after {used} of {items} items"
    words = {
        "non_inferior": "no worse",
        "regression": "worse by more than the margin",
        "inconclusive": "not enough evidence",
    }[outcome]
    return Decision(outcome, f"{words}: {change}.", items, used, estimate, low, high)


def _estimate(walk: Walk, steps: int) -> float:
    return float(walk.gain[:steps].sum() / walk.size[:steps].sum())


def _take(pairs: Pairs, order: np.ndarray) -> Pairs:
    return Pairs(
        tuple(pairs.ids[number] for number in order),
        pairs.production[order],
        pairs.candidate[order],
        None if pairs.clusters is None else renumbered(pairs.clusters[order]),
        None if pairs.production_confidence is None else pairs.production_confidence[order],
    )
