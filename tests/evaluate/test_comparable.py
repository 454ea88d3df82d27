"""What cannot be compared is named, what merely changed is named too, and neither is taken for the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tasks.evaluate.scoring.scores import Conditions, ItemScore, SuiteScores
from tasks.evaluate.verdict.comparable import (
    MAY_CHANGE,
    MUST_AGREE,
    changes,
    troubles_of,
    why_incomparable,
)
from tasks.evaluate.verdict.judge_suites import weigh_suite
from tasks.evaluate.verdict.rescoring import far_from_earlier, flips_share
from tasks.evaluate.verdict.verdict import SuiteVerdict, judge_suite

SAME = Conditions(
    scorer="lm-eval 0.4",
    parsing="assertions 2",
    engine="vllm 0.32",
    flags="--a",
    batch="8",
    chat_template="t1",
    tokenizer="k1",
    generation_config="g1",
    quantization="none",
    thoughts="think",
)


def scores(values: Sequence[float], **changes: object) -> SuiteScores:
    items = tuple(ItemScore(id=f"i{number}", score=value) for number, value in enumerate(values))
    facts = {"suite": "regression/x", "suite_digest": "s", "artifact_digest": "a", "scorer": "x 1", "seconds": 1.0}
    return SuiteScores.model_validate({**facts, "items": items, "conditions": SAME, **changes})


GOOD = [1.0] * 300


def weigh(candidate: SuiteScores, production: SuiteScores, **options: Any) -> SuiteVerdict:
    return weigh_suite(candidate, production, margin=0.05, confidence=0.95, **options)


def test_every_condition_is_either_decisive_or_a_change() -> None:
    assert {*MUST_AGREE, *MAY_CHANGE} == set(Conditions.model_fields)
    assert not MUST_AGREE.keys() & MAY_CHANGE.keys()


@pytest.mark.parametrize("field", MUST_AGREE)
def test_scores_of_other_conditions_are_invalid_in_words(field: str) -> None:
    other = SAME.model_copy(update={field: 5 if field == "few_shot" else "another"})
    verdict = weigh(scores(GOOD, conditions=other), scores(GOOD))
    assert verdict.outcome == "invalid"
    assert MUST_AGREE[field] in verdict.reason
    assert str(getattr(other, field)) in verdict.reason and str(getattr(SAME, field)) in verdict.reason


@pytest.mark.parametrize("field", MAY_CHANGE)
def test_permitted_changes_are_named_and_do_not_invalidate(field: str) -> None:
    other = SAME.model_copy(update={field: "another"})
    verdict = weigh(scores(GOOD, conditions=other, scorer="x 1 another"), scores(GOOD))
    assert verdict.outcome == "non_inferior"
    assert len(verdict.changed) == 1
    assert MAY_CHANGE[field] in verdict.changed[0] and "another" in verdict.changed[0]


def test_a_field_that_an_endpoint_does_not_report_is_no_change() -> None:
    assert changes(SAME.model_copy(update={"tokenizer": ""}), SAME) == ()
    assert changes(None, SAME) == ()


def test_engines_may_differ_if_a_person_allows_it() -> None:
    other = SAME.model_copy(update={"engine": "llama.cpp 1"})
    allowed = frozenset({"engine"})
    verdict = weigh(scores(GOOD, conditions=other, scorer="x 2"), scores(GOOD), may_differ=allowed)
    assert verdict.outcome == "non_inferior" and "the engine" in verdict.changed[0]


def test_books_of_earlier_versions_are_compared_by_the_scorers_name() -> None:
    old = scores(GOOD, conditions=None)
    assert weigh(scores(GOOD), old).outcome == "non_inferior"
    assert "scored differently" in why_incomparable(scores(GOOD, scorer="x 2"), old)


def test_an_invalid_verdict_still_names_the_must_pass_items_that_failed_and_only_those() -> None:
    items = (
        ItemScore(id="failed", score=0.0, must_pass=True),
        ItemScore(id="partly", score=0.5, must_pass=True),
        ItemScore(id="passed", score=1.0, must_pass=True),
        ItemScore(id="optional", score=0.0),
    )
    candidate = scores([], items=items, suite_digest="t")
    verdict = weigh(candidate, scores([], items=items))
    assert verdict.outcome == "invalid" and "the suite changed" in verdict.reason
    assert verdict.must_pass_failed == ("failed", "partly")
    assert (verdict.items, verdict.candidate_mean, verdict.production_mean) == (4, 0.375, 0.375)


def test_a_whole_suite_needs_the_same_order_and_scores_from_0_to_1() -> None:
    production = scores(GOOD)
    turned = production.model_copy(update={"items": production.items[::-1]})
    assert why_incomparable(turned, production) == ""
    assert "the same order" in why_incomparable(turned, production, whole=True)
    assert judge_suite(turned, production, margin=0.05, confidence=0.95).outcome == "invalid"
    assert "between 0 and 1" in why_incomparable(scores([1.2] * 300), production)
    assert why_incomparable(scores(GOOD[:100], suite_items=300), production, whole=True) != ""


def test_every_reason_is_named_not_only_the_first() -> None:
    reason = why_incomparable(scores(GOOD[:-1], suite_digest="t"), scores(GOOD))
    assert "the suite changed" in reason and "1 by production only" in reason and "i299" in reason


def test_a_candidate_that_stopped_early_has_fewer_items_and_is_comparable() -> None:
    assert why_incomparable(scores(GOOD[:100], suite_items=300), scores(GOOD)) == ""
    assert why_incomparable(scores(GOOD[:100]), scores(GOOD)) != ""


@pytest.mark.parametrize(("count", "outcome"), [(6, "non_inferior"), (7, "invalid")])
@pytest.mark.parametrize("kind", ["truncated", "empty", "error"])
def test_answers_that_are_not_whole_are_counted_and_two_per_cent_may_be(count: int, outcome: str, kind: str) -> None:
    items = tuple(ItemScore(id=f"i{n}", score=1.0, trouble=kind if n < count else "") for n in range(300))
    verdict = weigh(scores(GOOD, items=items), scores(GOOD))
    assert verdict.outcome == outcome
    sentence = verdict.reason if outcome == "invalid" else verdict.note
    assert f"{count} " in sentence and f"of 300 answers ({count / 300:.1%})" in sentence
    assert troubles_of(scores(GOOD, items=items)).share == pytest.approx(count / 300)


def test_a_baseline_says_what_will_keep_a_comparison_from_being_valid_and_what_to_do() -> None:
    cut = scores([1.0] * 33)
    cut = cut.model_copy(update={"items": (*cut.items[:-1], cut.items[-1].model_copy(update={"trouble": "truncated"}))})
    verdict = judge_suite(cut, None, margin=0.2, confidence=0.95)
    assert verdict.outcome == "baseline"
    assert verdict.reason.endswith(
        "Nothing could be compared with it: 1 cut off of 33 answers (3.0%); at most 2% may be "
        "(give i32 a larger `max_tokens`, or `may_be_cut`)."
    )
    assert "Nothing could" not in judge_suite(scores([1.0] * 33), None, margin=0.2, confidence=0.95).reason


def test_production_far_from_its_earlier_scoring_is_invalid() -> None:
    now, before = scores([0.0] * 40 + [1.0] * 260), scores(GOOD, scorer="old 1")
    verdict = weigh(now, now, earlier=[before])
    assert verdict.outcome == "invalid"
    assert "its own earlier scoring" in verdict.reason and "old 1" in verdict.reason and "-13.3%" in verdict.reason


def test_a_smaller_difference_to_earlier_scorings_is_a_warning_and_noise_is_ignored() -> None:
    now = scores([0.0] * 10 + [1.0] * 290)
    verdict = weigh(now, now, earlier=[scores(GOOD, scorer="old 1")])
    assert verdict.outcome == "non_inferior" and "its own earlier scoring" in verdict.note
    noisy = scores([0.0] * 5 + [1.0] * 290 + [0.0] * 5)
    assert far_from_earlier(noisy, [scores([1.0] * 10 + [0.0] * 5 + [1.0] * 285)]) == (0.0, "")


def test_the_noise_floor_is_the_share_of_production_s_flips_between_two_scorings() -> None:
    rescored = scores([0.0] * 3 + [1.0] * 297)
    assert weigh(scores(GOOD), scores(GOOD), production_rescored=rescored).noise_flips_share == pytest.approx(0.01)
    assert weigh(scores(GOOD), scores(GOOD)).noise_flips_share is None
    assert flips_share(scores([]), scores(GOOD)) is None
