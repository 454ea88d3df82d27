"""One suite judged as a whole, and the suites of a release drawn together."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate.scoring.scores import ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.verdict.sequential import power
from tasks.evaluate.verdict.verdict import Movement, SuiteVerdict, judge, judge_suite


def scores(
    values: Sequence[float], suite: str = "general/choice", must_pass: Collection[int] = (), **changes: object
) -> SuiteScores:
    items = tuple(
        ItemScore(id=f"i{number}", score=value, must_pass=number in must_pass) for number, value in enumerate(values)
    )
    facts = {"suite": suite, "suite_digest": "s", "artifact_digest": "a", "scorer": "x 1", "seconds": 1.0}
    return SuiteScores.model_validate({**facts, "items": items, **changes})


def verdict_of(
    candidate: SuiteScores, production: SuiteScores | None, margin: float = 0.05, confidence: float = 0.95
) -> SuiteVerdict:
    return judge_suite(candidate, production, margin=margin, confidence=confidence)


GOOD = [1.0] * 150 + [0.0] * 50


def test_the_same_model_twice_is_no_worse() -> None:
    result = verdict_of(scores(GOOD), scores(GOOD))
    assert result.outcome == "non_inferior"
    assert (result.gained, result.lost, result.estimate) == (0, 0, 0.0)


def test_the_same_model_twice_on_few_items_is_not_enough() -> None:
    assert verdict_of(scores([1.0] * 10), scores([1.0] * 10)).outcome == "inconclusive"


def test_a_broken_model_is_a_regression() -> None:
    result = verdict_of(scores([0.0] * 200), scores(GOOD))
    assert result.outcome == "regression"
    assert result.lost == 150
    assert "margin 5.0%" in result.reason


def test_an_inconclusive_suite_says_how_many_items_or_which_margin_would_decide_and_by_which_assumption() -> None:
    candidate = [0.0, 0.0, 0.0, *GOOD[3:]]
    verdict = verdict_of(scores(candidate[:60]), scores(GOOD[:60]), margin=0.06)
    assert verdict.outcome == "inconclusive"
    said = re.search(
        r"estimate ([\d,]+) items more \(([\d,]+) in all\), or a margin of ([\d.]+)% for these", verdict.reason
    )
    assert said and "9 times in 10, if the candidate is in truth as good as production" in verdict.reason
    more, needed, margin = (float(number.replace(",", "")) for number in said.groups())
    differing = sum((a - b) ** 2 for a, b in zip(candidate[:60], GOOD[:60])) / 60
    assert more == needed - 60 and power(int(needed), 0.06, 0.95, differing) >= 0.9
    assert power(60, margin / 100 + 0.001, 0.95, differing) >= 0.9 > power(60, margin / 100 - 0.002, 0.95, differing)


def test_a_loss_as_large_as_the_margin_is_not_said_to_need_more_items() -> None:
    verdict = verdict_of(scores([0.0, 0.0, *[1.0] * 8]), scores([1.0] * 10), margin=0.1)
    assert verdict.outcome == "inconclusive" and "More items would hardly show it no worse" in verdict.reason


def test_a_small_loss_that_could_be_chance_is_inconclusive() -> None:
    candidate = [0.0] * 9 + [1.0] * 141 + [1.0] * 3 + [0.0] * 47
    assert verdict_of(scores(candidate), scores(GOOD)).outcome == "inconclusive"


def test_a_must_pass_item_fails_the_suite_however_good_the_rest() -> None:
    result = verdict_of(scores([0.0, *GOOD[1:]], must_pass={0}), scores(GOOD))
    assert result.outcome == "regression"
    assert result.must_pass_failed == ("i0",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scorer": "x 2"}, "scored differently"),
        ({"suite_digest": "t"}, "suite changed"),
        ({"items": scores(GOOD[:100]).items}, "same items"),
        ({"items": ()}, "no item"),
    ],
)
def test_incomparable_scores_are_invalid(changes: dict[str, Any], reason: str) -> None:
    result = verdict_of(scores(GOOD, **changes), scores(GOOD))
    assert result.outcome == "invalid"
    assert reason in result.reason


def test_a_first_release_is_a_baseline_unless_it_fails_a_must_pass_item() -> None:
    assert verdict_of(scores(GOOD), None).outcome == "baseline"
    assert verdict_of(scores(GOOD, must_pass={199}), None).outcome == "regression"


def test_graded_scores_are_judged() -> None:
    production = [0.8] * 600
    assert verdict_of(scores([0.79] * 600), scores(production)).outcome == "non_inferior"
    worse = verdict_of(scores([0.6] * 600), scores(production))
    assert worse.outcome == "regression"
    assert worse.low is not None and worse.estimate is not None and worse.high is not None
    assert worse.low <= worse.estimate <= worse.high < -0.05
    assert verdict_of(scores([1.2] * 600), scores(production)).outcome == "invalid"


def test_items_of_one_conversation_count_as_one() -> None:
    def in_groups(values: Sequence[float], size: int) -> SuiteScores:
        grouped = scores(values)
        items = [item.model_copy(update={"cluster": str(n // size)}) for n, item in enumerate(grouped.items)]
        return grouped.model_copy(update={"items": tuple(items)})

    independent = verdict_of(in_groups(GOOD, 1), in_groups(GOOD, 1))
    assert (independent.outcome, independent.low) == ("non_inferior", verdict_of(scores(GOOD), scores(GOOD)).low)
    assert verdict_of(in_groups(GOOD, 20), in_groups(GOOD, 20)).outcome == "inconclusive"


def test_a_gain_too_large_to_be_true_is_flagged_and_still_passes() -> None:
    result = verdict_of(scores([1.0] * 200), scores(GOOD))
    assert result.outcome == "non_inferior"
    assert "chat templates" in result.note
    assert not verdict_of(scores(GOOD), scores(GOOD)).note


def test_a_loss_that_chance_explains_is_no_regression_at_a_tiny_margin() -> None:
    candidate = [0.0] * 12 + [1.0] * 138 + [1.0] * 3 + [0.0] * 47
    assert verdict_of(scores(candidate), scores(GOOD), margin=0.001).outcome == "inconclusive"


def test_among_many_suites_a_regression_must_be_surer() -> None:
    """Ten lost and one gained: one chance in 170, enough alone, not among forty suites."""
    candidate = [0.0] * 10 + [1.0] * 140 + [1.0] * 1 + [0.0] * 49
    lucky = verdict_of(scores(candidate), scores(GOOD), margin=0.01).model_copy(update={"suite": "general/s"})
    assert lucky.outcome == "regression"
    fine = [
        verdict_of(scores(GOOD), scores(GOOD)).model_copy(update={"suite": f"general/s{number}"})
        for number in range(39)
    ]
    single = judge("a" * 64, "b" * 64, [lucky], ["general/s"])
    assert single.outcome == "regression"
    among = judge("a" * 64, "b" * 64, [lucky, *fine], ["general/s", *(suite.suite for suite in fine)])
    assert among.outcome == "inconclusive"
    assert "one of 40 suites" in among.sentence
    assert among.sentence.startswith("Inconclusive: general/s: ")


def test_scores_stored_by_versions_without_clusters_are_still_read() -> None:
    stored = scores(GOOD).model_dump_json(exclude={"items": {"__all__": {"cluster", "margin"}}})
    assert '"cluster"' not in stored
    assert SuiteScores.model_validate_json(stored) == scores(GOOD)


def suite_verdicts(*outcomes: str) -> list[SuiteVerdict]:
    examples = {
        "non_inferior": (scores(GOOD), scores(GOOD)),
        "regression": (scores([0.0] * 200), scores(GOOD)),
        "inconclusive": (scores([1.0] * 10), scores([1.0] * 10)),
        "invalid": (scores(GOOD, scorer="other"), scores(GOOD)),
    }
    return [
        verdict_of(*examples[outcome]).model_copy(update={"suite": f"general/s{number}"})
        for number, outcome in enumerate(outcomes)
    ]


@pytest.mark.parametrize(
    ("outcomes", "together"),
    [
        (("non_inferior", "non_inferior"), "non_inferior"),
        (("non_inferior", "inconclusive"), "inconclusive"),
        (("inconclusive", "regression"), "regression"),
        (("regression", "invalid"), "invalid"),
    ],
)
def test_the_gravest_suite_decides(outcomes: tuple[str, ...], together: str) -> None:
    suites = suite_verdicts(*outcomes)
    result = judge("a" * 64, "b" * 64, suites, [suite.suite for suite in suites])
    assert result.outcome == together
    assert result.passes == (together == "non_inferior")
    assert result.sentence


def test_the_sentence_names_the_suites_and_signals_that_decided_and_no_others() -> None:
    suites = suite_verdicts("non_inferior", "regression", "inconclusive", "regression")
    movements = (
        Movement(name="distributions", outcome="regression", sentence="KL moved."),
        Movement(name="answers", outcome="inconclusive", sentence="Flips unsure."),
    )
    names = [suite.suite for suite in suites]
    verdict = judge("a" * 64, "b" * 64, suites, names, movements=movements)
    assert verdict.sentence == (
        f"Regression: general/s1: {suites[1].reason} general/s3: {suites[3].reason} distributions: KL moved."
    )
    passed = judge("a" * 64, "b" * 64, suites[:1], names[:1])
    assert passed.sentence == "No worse than production within every suite's margin, on 200 items in 1 suite."


def test_a_suite_that_was_not_scored_cannot_pass() -> None:
    suites = suite_verdicts("non_inferior")
    assert judge("a" * 64, "b" * 64, suites, ["general/s0", "general/s1"]).outcome == "invalid"


def test_a_regression_stands_although_the_rest_was_spared() -> None:
    suites = suite_verdicts("regression")
    assert judge("a" * 64, "b" * 64, suites, ["general/s0", "general/s1"]).outcome == "regression"


def test_the_cache_finds_scores_only_for_all_that_they_depend_on(tmp_path: Path) -> None:
    book = ScoreCache(tmp_path)
    kept = scores(GOOD, artifact_digest="a" * 64)
    book.keep(kept)
    key = {"artifact_digest": "a" * 64, "suite_digest": "s", "scorer": "x 1"}
    assert book.find(**key) == kept
    for name in key:
        assert book.find(**{**key, name: "b" * 64}) is None
