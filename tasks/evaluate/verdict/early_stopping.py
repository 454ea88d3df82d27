"""Score no further than needed: production's scores are all there, the candidate's arrive one by one.

The test is `tasks.evaluate.verdict.sequential.decide`, which allows an interim analysis after every item. The
candidate's items are taken in an order that has nothing to do with the file's, because suites are sorted by topic.
Where production's confidence is known, items on which it was unsure come more often, chosen block by block from the
results of earlier blocks; else the order is a fixed shuffle, with clusters whole.
Items that were not scored count for nothing. They are filled in with production's own score only so that the test has
a suite of the right size, and a decision is taken only if it rests on scored items alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.verdict.verdict import SUSPICIOUS_GAIN, SuiteVerdict, failed_must_pass, must_pass_reason

if TYPE_CHECKING:
    from tasks.evaluate.verdict.sequential import Decision, Pairs
    from tasks.evaluate.verdict.sequential.betting import Array, Walk


class InterimEstimate(BaseModel):
    """The difference, candidate minus production, as far as the items scored so far show it."""

    model_config = ConfigDict(frozen=True)

    items: int
    """Items that the estimate rests on; of a cluster all or none."""
    settled: bool
    """Whether no further item is needed."""
    estimate: float
    low: float
    high: float


def shuffled_order(production: SuiteScores) -> tuple[str, ...]:
    """A suite's ids in a fixed random order with clusters together, the same for every candidate."""
    from tasks.evaluate.verdict.sequential.order import shuffled

    clusters: dict[str, list[str]] = {}
    for item in production.items:
        clusters.setdefault(_cluster(item), []).append(item.id)
    if len(clusters) == len(production.items):
        ids = tuple(item.id for item in production.items)
        return tuple(ids[place] for place in shuffled(ids))
    names = tuple(clusters)
    return tuple(id for place in shuffled(names) for id in clusters[names[place]])


def scoring_order(
    production: SuiteScores, scored: Mapping[str, ItemScore], *, margin: float, confidence: float
) -> tuple[str, ...]:
    """A suite's ids in the order in which a candidate is scored, as far as its scores so far decide it.

    Args:
        production: all of production's scores.
        scored: the candidate's items so far, by id, in no particular order.
        margin: as for `judge_suite`.
        confidence: as for `judge_suite`.

    Returns:
        All ids where the order is `shuffled_order`; else those scored and, if that is not all, the next block.
    """
    return _Test(production, scored.values(), margin, confidence).order


def interim_estimate(
    production: SuiteScores, scored: Sequence[ItemScore], *, margin: float, confidence: float, suites: int = 1
) -> InterimEstimate:
    """Analyse a candidate's first items.

    Args:
        production: all of production's scores.
        scored: the candidate's items, at least one, in `scoring_order` and without gaps.
        margin: as for `judge_suite`.
        confidence: as for `judge_suite`.
        suites: number of suites compared in all: a regression must stand among so many (Holm).
    """
    from tasks.evaluate.verdict.sequential.betting import bound

    test = _Test(production, scored, margin, confidence)
    decision, settled = test.decision, len(scored) == len(production.items)
    if not settled and decision.items_used <= len(scored):
        settled = decision.outcome != "regression" or test.loss_p_value() <= test.levels.real_error / suites
    steps = test.steps
    if not steps:
        return InterimEstimate(items=0, settled=settled, estimate=0.0, low=-1.0, high=1.0)
    walk = test.walk
    estimate = float(walk.gain[:steps].sum() / walk.size[:steps].sum())
    low = bound(walk, (walk.passing,), 1.0, steps, test.levels.passing[0])
    high = bound(test.walk_in_favour, test.walk_in_favour.worse, -1.0, steps, test.levels.worse[0])
    return InterimEstimate(
        items=int(walk.items[steps - 1]),
        settled=settled,
        estimate=estimate,
        low=min(low, estimate),
        high=max(high, estimate),
    )


def judge_sequentially(
    candidate: SuiteScores, production: SuiteScores, *, margin: float, confidence: float
) -> SuiteVerdict:
    """Judge a candidate with interim analyses while it was scored, whether or not it was scored to the end.

    A whole suite judged afterwards (`judge_suite`) takes a little less evidence, because there were no interim
    analyses. A candidate with interim analyses must be judged here.

    Args:
        candidate: comparable scores; must-pass items are all there, others may be missing at the end of
            `scoring_order`.
        production: all of production's scores.
        margin: as for `judge_suite`.
        confidence: as for `judge_suite`.
    """
    items = {item.id: item for item in candidate.items}
    test = _Test(production, items.values(), margin, confidence)
    decision, production_scores = test.decision, {item.id: item.score for item in production.items}
    failed = failed_must_pass(candidate)
    used = test.order[: min(decision.items_used, test.scored)]
    reason = must_pass_reason(failed) if failed else decision.reason
    undecided = decision.items_used > test.scored
    if undecided and not failed:
        reason = (
            f"scoring stopped after {test.scored} of {len(production_scores)} items, before the question was settled."
        )
    return SuiteVerdict(
        suite=candidate.suite,
        outcome="regression" if failed else "inconclusive" if undecided else decision.outcome,
        reason=reason,
        margin=margin,
        confidence=confidence,
        items=len(used),
        candidate_mean=_mean([items[id].score for id in used]),
        production_mean=_mean([production_scores[id] for id in used]),
        estimate=decision.estimate,
        low=decision.low,
        high=decision.high,
        gained=sum(items[id].score > production_scores[id] for id in used),
        lost=sum(items[id].score < production_scores[id] for id in used),
        loss_p_value=test.loss_p_value(),
        note=SUSPICIOUS_GAIN if decision.low is not None and decision.low > margin else "",
        must_pass_failed=failed,
        suite_items=len(production_scores) if len(used) < len(production_scores) else None,
    )


class _Test:
    """The sequential test of one suite, with the candidate's missing scores filled in with production's."""

    def __init__(self, production: SuiteScores, scored: Iterable[ItemScore], margin: float, confidence: float) -> None:
        from tasks.evaluate.verdict.sequential import Levels, decide
        from tasks.evaluate.verdict.sequential.decide import fill_lost, is_binary
        from tasks.evaluate.verdict.sequential.order import walk_clusters, walk_items
        from tasks.evaluate.verdict.sequential.stratified import walk_strata

        scores_by_id = {item.id: nan if item.trouble == "error" else item.score for item in scored}
        with_lost = _pairs(production, scores_by_id)
        self.decision: Decision = decide(with_lost, margin=margin, confidence=confidence, max_lost_share=1.0)
        pairs, in_favour = fill_lost(with_lost, favour=False), fill_lost(with_lost, favour=True)
        self.gain, self.gain_in_favour = pairs.candidate - pairs.production, in_favour.candidate - in_favour.production
        final_analysis = pairs.clusters is None and is_binary(pairs)
        weighted = pairs.production_confidence is not None
        self.levels = Levels(margin, confidence, final_analysis=final_analysis, weighted=weighted)
        self.order: tuple[str, ...] = pairs.ids
        if pairs.clusters is not None:
            self.walk: Walk = walk_clusters(self.gain, pairs.clusters, margin)
            self.walk_in_favour = walk_clusters(self.gain_in_favour, pairs.clusters, margin)
        elif pairs.production_confidence is not None:
            error = self.levels.passing[0]
            self.walk = walk_strata(self.gain, pairs.production_confidence, pairs.ids, margin, error)
            self.order = _weighted_order(pairs, self.gain, scores_by_id, margin, error)
            self.walk_in_favour = walk_strata(
                self.gain_in_favour, pairs.production_confidence, pairs.ids, margin, error
            )
        else:
            self.walk = walk_items(self.gain, margin)
            self.walk_in_favour = walk_items(self.gain_in_favour, margin)
        self.scored = next((count for count, id in enumerate(self.order) if id not in scores_by_id), len(self.order))
        self.steps = int((self.walk.items <= self.scored).sum())

    def loss_p_value(self) -> float:
        """P-value of the hypothesis that the candidate lost nothing, valid with an interim analysis after every item.

        One over the largest stake against the hypothesis so far is its p-value (Ville's inequality). Where the whole
        suite was scored, the exact test at its end counts too; of two tests, the smaller p-value is doubled.
        """
        from math import exp

        from tasks.evaluate.verdict.paired import loss_p_value
        from tasks.evaluate.verdict.sequential.betting import log_stakes

        stakes = log_stakes(self.walk_in_favour, self.walk_in_favour.real, 0.0, -1.0)[: self.steps]
        anytime = exp(-max(float(stakes.max()), 0.0)) if self.steps else 1.0
        if not self.levels.final_analysis:
            return anytime
        if self.scored < len(self.gain):
            return min(2 * anytime, 1.0)
        end = loss_p_value(int((self.gain_in_favour > 0).sum()), int((self.gain_in_favour < 0).sum()))
        return min(2 * min(anytime, end), 1.0)


def _weighted_order(
    pairs: Pairs, gain: Array, scores_by_id: Mapping[str, float], margin: float, error: float
) -> tuple[str, ...]:
    import numpy as np

    from tasks.evaluate.verdict.sequential.order import shuffled
    from tasks.evaluate.verdict.sequential.stratified import order_so_far

    assert pairs.production_confidence is not None
    scored = np.array([id in scores_by_id for id in pairs.ids])
    places = order_so_far(gain, pairs.production_confidence, pairs.ids, margin, error, scored)
    order = [pairs.ids[place] for place in places]
    if scored[places].all():
        # The walk is over: the rest of the suite follows, for the exact test at its end.
        unused = set(pairs.ids).difference(order)
        order += [pairs.ids[place] for place in shuffled(pairs.ids) if pairs.ids[place] in unused]
    return tuple(order)


def _pairs(production: SuiteScores, candidate: Mapping[str, float]) -> Pairs:
    import numpy as np

    from tasks.evaluate.verdict.sequential import Pairs

    order = shuffled_order(production)
    items = {item.id: item for item in production.items}
    numbers: dict[str, int] = {}
    certainty = [items[id].margin for id in order]
    clusters = np.array([numbers.setdefault(_cluster(items[id]), len(numbers)) for id in order], dtype=np.int64)
    clustered = len(numbers) < len(order)
    return Pairs(
        ids=order,
        production=np.array([nan if items[id].trouble == "error" else items[id].score for id in order], dtype=float),
        candidate=np.array([candidate.get(id, items[id].score) for id in order], dtype=float),
        clusters=clusters if clustered else None,
        production_confidence=None if None in certainty or clustered else np.array(certainty, dtype=float),
    )


def _cluster(item: ItemScore) -> str:
    """Name of an item's cluster; an item without one is a cluster by itself, under a name that no cluster can have."""
    return f"item {item.id}" if item.cluster is None else f"cluster {item.cluster}"


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores) if scores else 0.0
