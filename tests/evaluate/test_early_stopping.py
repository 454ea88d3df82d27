"""A candidate is scored no further than the question needs, and in an order that no file decides."""

from __future__ import annotations

import random
from itertools import takewhile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.verdict.early_stopping import interim_estimate, judge_sequentially, scoring_order, shuffled_order
from tasks.evaluate.verdict.sequential import Pairs, decide
from tasks.evaluate.verdict.verdict import SuiteVerdict


def scores(values: dict[str, float], **changes: object) -> SuiteScores:
    items = tuple(ItemScore(id=id, score=value) for id, value in values.items())
    facts = {"suite": "general/x", "suite_digest": "s", "artifact_digest": "a", "scorer": "x", "seconds": 1.0}
    return SuiteScores.model_validate({**facts, "items": items, **changes})


def constant(value: float, size: int = 400) -> dict[str, float]:
    return {f"i{number}": value for number in range(size)}


def stopped(candidate: SuiteScores, production: SuiteScores, margin: float = 0.05) -> SuiteScores:
    """The candidate's scores as far as they are needed."""
    by_id, order = {item.id: item for item in candidate.items}, shuffled_order(production)
    for count in range(1, len(order) + 1):
        scored = [by_id[id] for id in order[:count]]
        if interim_estimate(production, scored, margin=margin, confidence=0.95).settled:
            break
    return candidate.model_copy(update={"items": tuple(scored), "suite_items": len(order)})


def judged(candidate: SuiteScores, production: SuiteScores) -> SuiteVerdict:
    return judge_sequentially(candidate, production, margin=0.05, confidence=0.95)


def test_equal_answers_pass_long_before_the_last_item() -> None:
    perfect = scores(constant(1.0))
    part = stopped(perfect, perfect)
    verdict = judged(part, perfect)
    assert verdict.outcome == "non_inferior"
    assert verdict.items == len(part.items) < 150
    assert verdict.suite_items == 400


def test_a_broken_model_fails_within_twenty_items() -> None:
    part = stopped(scores(constant(0.0)), scores(constant(1.0)))
    verdict = judged(part, scores(constant(1.0)))
    assert verdict.outcome == "regression" and len(part.items) < 20
    assert verdict.loss_p_value is not None and verdict.loss_p_value < 0.01


def test_among_many_suites_a_regression_needs_more_items() -> None:
    production, candidate = scores(constant(1.0)), constant(1.0)
    random.seed(1)
    candidate |= dict.fromkeys(random.sample(sorted(candidate), 80), 0.0)
    order = shuffled_order(production)

    def needed(suites: int) -> int:
        scored = [ItemScore(id=id, score=candidate[id]) for id in order]
        return next(
            count
            for count in range(1, 401)
            if interim_estimate(production, scored[:count], margin=0.05, confidence=0.95, suites=suites).settled
        )

    assert needed(1) < needed(20) < 400


def test_the_order_is_not_the_files_and_the_same_every_time() -> None:
    production = scores(constant(1.0))
    order = shuffled_order(production)
    assert sorted(order) == sorted(item.id for item in production.items)
    assert list(order) != [item.id for item in production.items]
    turned = production.model_copy(update={"items": production.items[::-1]})
    assert shuffled_order(turned) == order


def test_clusters_are_scored_whole_and_count_as_wholes() -> None:
    items = tuple(ItemScore(id=f"i{n}", score=1.0, cluster=str(n // 10)) for n in range(400))
    production = scores({}, items=items)
    order = shuffled_order(production)
    ids = {item.id: item.cluster for item in items}
    assert all(len({ids[id] for id in order[start : start + 10]}) == 1 for start in range(0, 400, 10))
    ours = {item.id: item for item in items}
    half = interim_estimate(production, [ours[id] for id in order[:15]], margin=0.05, confidence=0.95)
    assert half.items == 10 and not half.settled
    assert len(stopped(production, production).items) > len(stopped(scores(constant(1.0)), scores(constant(1.0))).items)


def test_must_pass_items_beyond_the_stop_still_fail_the_suite() -> None:
    production = scores(constant(1.0))
    part = stopped(production, production)
    late = ItemScore(id=shuffled_order(production)[-1], score=0.0, must_pass=True)
    verdict = judged(part.model_copy(update={"items": (*part.items, late)}), production)
    assert verdict.outcome == "regression" and verdict.must_pass_failed == (late.id,)


def test_an_undecided_part_is_inconclusive() -> None:
    production = scores(constant(1.0))
    part = production.model_copy(
        update={"items": tuple(ItemScore(id=id, score=1.0) for id in shuffled_order(production)[:5])}
    )
    verdict = judged(part, production)
    assert verdict.outcome == "inconclusive" and "5 of 400" in verdict.reason


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.3]))
def test_unscored_items_never_affect_the_decision(seed: int, lost: float) -> None:
    """A stop depends only on the scored items, whatever the others would have been."""
    numbers = random.Random(seed)
    production = scores({f"i{n}": float(numbers.random() < 0.9) for n in range(200)})
    candidate = {item.id: 0.0 if numbers.random() < lost else item.score for item in production.items}
    part = stopped(scores(candidate), production, margin=0.1)
    first = judge_sequentially(part, production, margin=0.1, confidence=0.95)
    scored = {item.id for item in part.items}
    whole = scores({id: candidate[id] if id in scored else float(numbers.random() < 0.5) for id in candidate})
    if len(scored) < 200:
        assert judge_sequentially(whole, production, margin=0.1, confidence=0.95).outcome == first.outcome


def unsure(seed: int, lost_share: float, gained_share: float) -> tuple[SuiteScores, SuiteScores]:
    """Production and candidate of 600 items, whose flips are where production was unsure."""
    chance = random.Random(seed)
    production, candidate = [], []
    for number in range(600):
        margin = chance.gauss(1.0, 2.0)
        score, near = float(margin > 0), abs(margin) < 0.7
        flips = chance.random() < (lost_share if score else gained_share) * (3.5 if near else 0.3)
        production.append(ItemScore(id=f"i{number}", score=score, margin=margin))
        candidate.append(ItemScore(id=f"i{number}", score=1 - score if flips else score))
    return scores({}, items=tuple(production)), scores({}, items=tuple(candidate))


def scored_in_order(candidate: SuiteScores, production: SuiteScores, chunk: int = 64) -> SuiteScores:
    """The candidate's scores as far as they are needed, scored as the harness does it: some items at a time."""
    by_id = {item.id: item for item in candidate.items}
    scored: dict[str, ItemScore] = {}
    while True:
        order = scoring_order(production, scored, margin=0.05, confidence=0.95)
        leading = [scored[id] for id in takewhile(scored.__contains__, order)]
        missing = [id for id in order if id not in scored][:chunk]
        if not missing or (leading and interim_estimate(production, leading, margin=0.05, confidence=0.95).settled):
            return candidate.model_copy(update={"items": tuple(leading), "suite_items": len(by_id)})
        scored |= {id: by_id[id] for id in missing}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), lost=st.sampled_from([0.0, 0.05, 0.3]), gained=st.sampled_from([0.0, 0.1]))
def test_an_order_by_production_confidence_decides_as_the_whole_suite_would(
    seed: int, lost: float, gained: float
) -> None:
    production, candidate = unsure(seed, lost, gained)
    part = scored_in_order(candidate, production)
    verdict = judged(part, production)
    confidence = np.array([item.margin for item in production.items])
    whole = decide(
        Pairs(
            ids=tuple(item.id for item in production.items),
            production=np.array([item.score for item in production.items]),
            candidate=np.array([item.score for item in candidate.items]),
            production_confidence=confidence,
        ),
        margin=0.05,
        confidence=0.95,
    )
    assert (verdict.outcome, verdict.items) == (whole.outcome, whole.items_used)
    assert verdict.items <= len(part.items) <= verdict.items + 64 or verdict.items == 600
    assert (verdict.low, verdict.high) == (whole.low, whole.high)


def test_a_killed_scoring_resumes_in_the_same_order() -> None:
    production, candidate = unsure(3, 0.05, 0.1)
    by_id = {item.id: item for item in candidate.items}
    first = scoring_order(production, {}, margin=0.05, confidence=0.95)
    assert len(first) < 100, "no further than what is decided"
    assert list(first) != list(shuffled_order(production)[: len(first)])
    some = {id: by_id[id] for id in first[:7]}
    assert scoring_order(production, some, margin=0.05, confidence=0.95) == first
    all_of_them = {id: by_id[id] for id in first}
    longer = scoring_order(production, all_of_them, margin=0.05, confidence=0.95)
    assert longer[: len(first)] == first and len(longer) > len(first)
