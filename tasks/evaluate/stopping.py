"""Scoring no further than needed: production's scores are all there, the candidate's come one by one.

The test is `tasks.evaluate.sequential.decide`, which may be looked at after every item. It sees a candidate's
items in a fair order that has nothing to do with the file's, for suites are sorted by topic, and clusters whole.
What was not scored counts for nothing: it is filled in with production's own score only so that the test has a
suite of the right size, and a decision is taken only if it rests on scored items alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scores import ItemScore, SuiteScores
from tasks.evaluate.verdict import SUSPICIOUS, SuiteVerdict

if TYPE_CHECKING:
    from tasks.evaluate.sequential import Decision, Levels, Pairs
    from tasks.evaluate.sequential.betting import Walk


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
    from tasks.evaluate.sequential.order import shuffled

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


def look(
    production: SuiteScores, seen: Sequence[ItemScore], *, margin: float, confidence: float, suites: int = 1
) -> Look:
    """Look at a candidate's first items.

    Args:
        production: all of production's scores.
        seen: the candidate's items, at least one, in `fair_order` and without gaps.
        margin, confidence: as for `judge_suite`.
        suites: how many suites are compared in all: a regression must stand among so many (Holm).
    """
    from tasks.evaluate.sequential.betting import bound

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
        candidate: comparable scores; must-pass items are all there, others may be missing at the end of `fair_order`.
        production: all of production's scores.
    """
    ours = {item.id: item for item in candidate.items}
    order = fair_order(production)
    seen = [ours[id] for id in order[: next((n for n, id in enumerate(order) if id not in ours), len(order))]]
    test = _Test(production, seen, margin, confidence)
    decision, theirs = test.decision, {item.id: item.score for item in production.items}
    failed = tuple(item.id for item in candidate.items if item.must_pass and item.score < 1)
    used = order[: min(decision.items_used, len(seen))]
    reason = f"must-pass items failed: {', '.join(failed)}." if failed else decision.reason
    undecided = decision.items_used > len(seen)
    if undecided and not failed:
        reason = f"scoring stopped after {len(seen)} of {len(order)} items, before the question was settled."
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
        suite_items=len(order) if len(used) < len(order) else None,
    )


class _Test:
    """The sequential test of one suite, with the candidate's missing scores filled in with production's."""

    def __init__(self, production: SuiteScores, seen: Sequence[ItemScore], margin: float, confidence: float) -> None:
        from tasks.evaluate.sequential import Levels, decide
        from tasks.evaluate.sequential.decide import is_binary
        from tasks.evaluate.sequential.order import walk_clusters, walk_items

        self.pairs = _pairs(production, seen)
        self.seen = len(seen)
        self.gain = self.pairs.candidate - self.pairs.production
        self.decision: Decision = decide(self.pairs, margin=margin, confidence=confidence)
        clusters = self.pairs.clusters
        alone = clusters is None
        self.levels: Levels = Levels(margin, confidence, final_look=alone and is_binary(self.pairs))
        self.walk: Walk = (
            walk_items(self.gain, margin) if clusters is None else walk_clusters(self.gain, clusters, margin)
        )
        self.steps = int((self.walk.items <= self.seen).sum())

    def loss_p_value(self) -> float:
        """Of the hypothesis that the candidate lost nothing, valid after looking at every item.

        The stake against it, at its largest so far, is how unlikely it has become (Ville's inequality). Where the
        whole suite was looked at, the exact test at its end counts too; of two tests, the smaller p-value doubled.
        """
        from math import exp

        from tasks.evaluate.paired import loss_p_value
        from tasks.evaluate.sequential.betting import log_stakes

        stakes = log_stakes(self.walk, self.walk.real, 0.0, -1.0)[: self.steps]
        anytime = exp(-max(float(stakes.max()), 0.0)) if self.steps else 1.0
        if not self.levels.final_look:
            return anytime
        if self.seen < len(self.gain):
            return min(2 * anytime, 1.0)
        end = loss_p_value(int((self.gain > 0).sum()), int((self.gain < 0).sum()))
        return min(2 * min(anytime, end), 1.0)


def _pairs(production: SuiteScores, seen: Sequence[ItemScore]) -> Pairs:
    import numpy as np

    from tasks.evaluate.sequential import Pairs

    order = fair_order(production)
    theirs, ours = {item.id: item for item in production.items}, {item.id: item.score for item in seen}
    numbers: dict[str, int] = {}
    clusters = np.array([numbers.setdefault(_cluster(theirs[id]), len(numbers)) for id in order], dtype=np.int64)
    return Pairs(
        ids=order,
        production=np.array([theirs[id].score for id in order], dtype=float),
        candidate=np.array([ours.get(id, theirs[id].score) for id in order], dtype=float),
        clusters=clusters if len(numbers) < len(order) else None,
    )


def _cluster(item: ItemScore) -> str:
    """An item's cluster; one that has none is a cluster by itself, with a name that no other can have."""
    return f"item {item.id}" if item.cluster is None else f"cluster {item.cluster}"


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores) if scores else 0.0
