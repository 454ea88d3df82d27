"""Scoring no further than needed: production's scores are all there, the candidate's come one by one.

The test is `tasks.evaluate.verdict.sequential.decide`, which may be looked at after every item. It sees a candidate's
items in an order that has nothing to do with the file's, for suites are sorted by topic: where production's margins
are known, items on which it was unsure more often, chosen block by block from what the blocks before have shown; else
a fair one, with clusters whole.
What was not scored counts for nothing: it is filled in with production's own score only so that the test has a
suite of the right size, and a decision is taken only if it rests on scored items alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.verdict.verdict import SUSPICIOUS, SuiteVerdict

if TYPE_CHECKING:
    from tasks.evaluate.verdict.sequential import Decision, Pairs
    from tasks.evaluate.verdict.sequential.betting import Array, Walk


class Look(BaseModel):
    """What the items seen so far show of the difference, candidate minus production."""

    model_config = ConfigDict(frozen=True)

    items: int
    """Seen; of a cluster all or none."""
    settled: bool
    """Whether no further item is needed."""
    estimate: float
    low: float
    high: float


def fair_order(production: SuiteScores) -> tuple[str, ...]:
    """A suite's ids in the order in which a candidate is scored: at random but always the same, clusters together."""
    from tasks.evaluate.verdict.sequential.order import shuffled

    clusters: dict[str, list[str]] = {}
    for item in production.items:
        # A name of its own for an item without a cluster, which no cluster can have.
        clusters.setdefault(f"item {item.id}" if item.cluster is None else f"cluster {item.cluster}", []).append(
            item.id
        )
    if len(clusters) == len(production.items):
        ids = tuple(item.id for item in production.items)
        return tuple(ids[place] for place in shuffled(ids))
    names = tuple(clusters)
    return tuple(id for place in shuffled(names) for id in clusters[names[place]])


def looking_order(
    production: SuiteScores, scored: Mapping[str, ItemScore], *, margin: float, confidence: float
) -> tuple[str, ...]:
    """A suite's ids in the order in which a candidate is looked at, as far as its scores so far decide it.

    Args:
        production: all of production's scores.
        scored: the candidate's items so far, by id, in no particular order.
        margin, confidence: as for `judge_suite`.

    Returns:
        All ids where the order is `fair_order`; else those looked at and, if that is not all, the next.
    """
    return _Test(production, scored.values(), margin, confidence).order


def look(
    production: SuiteScores, seen: Sequence[ItemScore], *, margin: float, confidence: float, suites: int = 1
) -> Look:
    """Look at a candidate's first items.

    Args:
        production: all of production's scores.
        seen: the candidate's items, at least one, in `looking_order` and without gaps.
        margin, confidence: as for `judge_suite`.
        suites: how many suites are compared in all: a regression must stand among so many (Holm).
    """
    from tasks.evaluate.verdict.sequential.betting import bound

    test = _Test(production, seen, margin, confidence)
    decision, settled = test.decision, len(seen) == len(production.items)
    if not settled and decision.items_used <= len(seen):
        settled = decision.outcome != "regression" or test.loss_p_value() <= test.levels.real_error / suites
    steps = test.steps
    if not steps:
        return Look(items=0, settled=settled, estimate=0.0, low=-1.0, high=1.0)
    walk = test.walk
    estimate = float(walk.gain[:steps].sum() / walk.size[:steps].sum())
    low = bound(walk, (walk.passing,), 1.0, steps, test.levels.passing[0])
    high = bound(walk, walk.worse, -1.0, steps, test.levels.worse[0])
    return Look(
        items=int(walk.items[steps - 1]),
        settled=settled,
        estimate=estimate,
        low=min(low, estimate),
        high=max(high, estimate),
    )


def judge_as_seen(candidate: SuiteScores, production: SuiteScores, *, margin: float, confidence: float) -> SuiteVerdict:
    """The verdict on a candidate whose items were looked at while they were scored, to the end or not.

    The whole suite judged afterwards (`judge_suite`) takes a little less evidence, since nobody looked before; a
    candidate that was looked at must be judged here.

    Args:
        candidate: comparable scores; must-pass items are all there, others may be missing at the end of
            `looking_order`.
        production: all of production's scores.
    """
    ours = {item.id: item for item in candidate.items}
    test = _Test(production, ours.values(), margin, confidence)
    decision, theirs = test.decision, {item.id: item.score for item in production.items}
    failed = tuple(item.id for item in candidate.items if item.must_pass and item.score < 1)
    used = test.order[: min(decision.items_used, test.seen)]
    reason = f"must-pass items failed: {', '.join(failed)}." if failed else decision.reason
    undecided = decision.items_used > test.seen
    if undecided and not failed:
        reason = f"scoring stopped after {test.seen} of {len(theirs)} items, before the question was settled."
    return SuiteVerdict(
        suite=candidate.suite,
        outcome="regression" if failed else "inconclusive" if undecided else decision.outcome,
        reason=reason,
        margin=margin,
        confidence=confidence,
        items=len(used),
        candidate_mean=_mean([ours[id].score for id in used]),
        production_mean=_mean([theirs[id] for id in used]),
        estimate=decision.estimate,
        low=decision.low,
        high=decision.high,
        gained=sum(ours[id].score > theirs[id] for id in used),
        lost=sum(ours[id].score < theirs[id] for id in used),
        loss_p_value=test.loss_p_value(),
        note=SUSPICIOUS if decision.low is not None and decision.low > margin else "",
        must_pass_failed=failed,
        suite_items=len(theirs) if len(used) < len(theirs) else None,
    )


class _Test:
    """The sequential test of one suite, with the candidate's missing scores filled in with production's."""

    def __init__(self, production: SuiteScores, scored: Iterable[ItemScore], margin: float, confidence: float) -> None:
        from tasks.evaluate.verdict.sequential import Levels, decide
        from tasks.evaluate.verdict.sequential.decide import is_binary
        from tasks.evaluate.verdict.sequential.order import walk_clusters, walk_items
        from tasks.evaluate.verdict.sequential.stratified import walk_strata

        known = {item.id: item.score for item in scored}
        self.pairs = pairs = _pairs(production, known)
        self.gain = pairs.candidate - pairs.production
        self.decision: Decision = decide(pairs, margin=margin, confidence=confidence)
        final_look = pairs.clusters is None and is_binary(pairs)
        self.levels = Levels(margin, confidence, final_look=final_look, weighted=pairs.margins is not None)
        self.order: tuple[str, ...] = pairs.ids
        if pairs.clusters is not None:
            self.walk: Walk = walk_clusters(self.gain, pairs.clusters, margin)
        elif pairs.margins is not None:
            error = self.levels.passing[0]
            self.walk = walk_strata(self.gain, pairs.margins, pairs.ids, margin, error)
            self.order = _weighted_order(pairs, self.gain, known, margin, error)
        else:
            self.walk = walk_items(self.gain, margin)
        self.seen = next((count for count, id in enumerate(self.order) if id not in known), len(self.order))
        self.steps = int((self.walk.items <= self.seen).sum())

    def loss_p_value(self) -> float:
        """Of the hypothesis that the candidate lost nothing, valid after looking at every item.

        The stake against it, at its largest so far, is how unlikely it has become (Ville's inequality). Where the
        whole suite was looked at, the exact test at its end counts too; of two tests, the smaller p-value doubled.
        """
        from math import exp

        from tasks.evaluate.verdict.paired import loss_p_value
        from tasks.evaluate.verdict.sequential.betting import log_stakes

        stakes = log_stakes(self.walk, self.walk.real, 0.0, -1.0)[: self.steps]
        anytime = exp(-max(float(stakes.max()), 0.0)) if self.steps else 1.0
        if not self.levels.final_look:
            return anytime
        if self.seen < len(self.gain):
            return min(2 * anytime, 1.0)
        end = loss_p_value(int((self.gain > 0).sum()), int((self.gain < 0).sum()))
        return min(2 * min(anytime, end), 1.0)


def _weighted_order(
    pairs: Pairs, gain: Array, known: Mapping[str, float], margin: float, error: float
) -> tuple[str, ...]:
    import numpy as np

    from tasks.evaluate.verdict.sequential.order import shuffled
    from tasks.evaluate.verdict.sequential.stratified import order_so_far

    assert pairs.margins is not None
    scored = np.array([id in known for id in pairs.ids])
    places = order_so_far(gain, pairs.margins, pairs.ids, margin, error, scored)
    order = [pairs.ids[place] for place in places]
    if scored[places].all():
        # The walk came to its end: whoever wants more takes what is left of the suite, for the exact test at its end.
        left = set(pairs.ids).difference(order)
        order += [pairs.ids[place] for place in shuffled(pairs.ids) if pairs.ids[place] in left]
    return tuple(order)


def _pairs(production: SuiteScores, ours: Mapping[str, float]) -> Pairs:
    import numpy as np

    from tasks.evaluate.verdict.sequential import Pairs

    order = fair_order(production)
    theirs = {item.id: item for item in production.items}
    numbers: dict[str, int] = {}
    margins = [theirs[id].margin for id in order]
    clusters = np.array([numbers.setdefault(_cluster(theirs[id]), len(numbers)) for id in order], dtype=np.int64)
    return Pairs(
        ids=order,
        production=np.array([theirs[id].score for id in order], dtype=float),
        candidate=np.array([ours.get(id, theirs[id].score) for id in order], dtype=float),
        clusters=clusters if len(numbers) < len(order) else None,
        margins=None if None in margins or len(numbers) < len(order) else np.array(margins, dtype=float),
    )


def _cluster(item: ItemScore) -> str:
    """An item's cluster; one that has none is a cluster by itself, with a name that no other can have."""
    return f"item {item.id}" if item.cluster is None else f"cluster {item.cluster}"


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores) if scores else 0.0
