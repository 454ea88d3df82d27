"""Agreement of two models that are broken alike proves nothing, and lost scores prove nothing either way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tasks.evaluate.scoring.chat import GREETING
from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.suites.suite import find_suite, questions_of
from tasks.evaluate.verdict.early_stopping import judge_sequentially
from tasks.evaluate.verdict.judge_suites import weigh_suite
from tasks.evaluate.verdict.sensitivity import independent_units, lower_share, why_insensitive
from tasks.evaluate.verdict.sequential import Pairs, decide
from tasks.evaluate.verdict.verdict import SuiteVerdict, judge_suite


def scores(
    values: Sequence[float], *, say: str = "answer {}", chance: float = 0.0, lost: Sequence[int] = ()
) -> SuiteScores:
    items = tuple(
        ItemScore(
            id=f"i{n}",
            score=0.0 if n in lost else value,
            answer=say.format(n),
            chance=chance,
            trouble="error" if n in lost else "",
        )
        for n, value in enumerate(values)
    )
    return SuiteScores(suite="regression/x", suite_digest="s", artifact_digest="a", scorer="x", items=items, seconds=1)


def weigh(candidate: SuiteScores, production: SuiteScores, margin: float = 0.08) -> SuiteVerdict:
    return weigh_suite(candidate, production, margin=margin, confidence=0.95)


GOOD = [1.0] * 180 + [0.0] * 20


@pytest.mark.parametrize(
    ("both", "reason"),
    [
        (scores(GOOD, say="Hello!"), "same answer to 200 of 200"),
        (scores(GOOD, say="I'm sorry, but I can't help with request {}."), "refuses 200 of 200"),
        (scores([0.0] * 200), "Production scores 0.0%"),
        (scores([1.0] * 10 + [0.0] * 190), "not shown to be better than a model that answers nothing"),
        (scores([1.0, 0.0] * 100, chance=0.5), "not shown to be better than chance (50.0%)"),
        (scores(GOOD, chance=0.9), "chance (90.0%)"),
    ],
)
def test_two_models_that_are_broken_alike_are_invalid_with_the_reason(both: SuiteScores, reason: str) -> None:
    verdict = weigh(both, both)
    assert verdict.outcome == "invalid" and reason in verdict.reason


def test_a_candidate_that_says_the_same_to_everything_does_not_pass() -> None:
    assert weigh(scores(GOOD, say="Hello!"), scores(GOOD)).outcome == "invalid"


def test_a_loss_that_is_seen_is_a_regression_whatever_the_suite_is_worth() -> None:
    assert weigh(scores([0.0] * 200, say="Hello!"), scores(GOOD)).outcome == "regression"


def test_a_suite_that_can_see_a_loss_says_how_small_a_one() -> None:
    verdict = weigh(scores(GOOD, chance=0.25), scores(GOOD, chance=0.25))
    assert verdict.outcome == "non_inferior"
    assert "of the 65.0% that production scores above chance" in verdict.note


@pytest.mark.parametrize(
    ("suite", "margin", "right", "chance"),
    [("agreement", 0.08, 0.96, 0.5), ("choice", 0.08, 0.907, 0.5), ("copying", 0.15, 0.866, 0.0)],
)
def test_the_demos_suites_are_sensitive_at_their_recorded_scores(
    suite: str, margin: float, right: float, chance: float
) -> None:
    """Scores of docs/evidence/verdict.md, "SmolLM2 and its own quantizations"; a choice has two options or more."""
    items = find_suite(f"general/{suite}").items
    recorded = scores([1.0] * round(right * items) + [0.0] * (items - round(right * items)), chance=chance)
    assert why_insensitive(recorded, recorded, margin=margin, confidence=0.95) == ""


def test_a_greeting_passes_few_items_of_the_demos_regression_suite() -> None:
    questions = questions_of(find_suite("regression/smollm2").path)
    floor = sum(question.score(question.grade(GREETING)) for question in questions) / len(questions)
    assert floor < 0.2


def test_one_large_cluster_does_not_make_a_suite_at_chance_a_sensitive_one() -> None:
    rng = np.random.default_rng(20261201)
    sizes = np.array([100, *[1] * 50])
    units = independent_units([number for number, size in enumerate(sizes) for _ in range(size)])
    for chance in (0.05, 0.25, 0.5):
        means = (rng.random((2000, len(sizes))) < chance) @ sizes / sizes.sum()
        assert np.mean([lower_share(mean, units, 0.05) > chance for mean in means]) <= 0.05
    assert independent_units(["a", "a", "b", "b"]) == 2 and independent_units(range(60)) == 60


@pytest.mark.parametrize(("units", "truth"), [(50, 0.58), (200, 0.58), (200, 0.1), (1000, 0.3)])
def test_the_bound_of_productions_share_errs_at_most_one_time_in_twenty(units: int, truth: float) -> None:
    draws = np.random.default_rng(2).binomial(units, truth, 400)
    bounds = {count: lower_share(count / units, units, 0.05) for count in set(draws.tolist())}
    missed = np.mean([bounds[int(count)] > truth for count in draws])
    assert missed <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


PLACES = {"head": range(8), "tail": range(992, 1000), "random": range(3, 1000, 125)}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("side", ["candidate", "production"])
def test_lost_scores_of_an_identical_model_are_no_loss(place: str, side: str) -> None:
    production, candidate = np.ones(1000), np.ones(1000)
    (candidate if side == "candidate" else production)[list(PLACES[place])] = np.nan
    ids = tuple(f"i{n}" for n in range(1000))
    for margin in (0.001, 0.005, 0.02):
        decision = decide(Pairs(ids, production, candidate), margin=margin, confidence=0.95)
        assert decision.outcome != "regression"
        assert decision.high is not None and decision.high >= 0
    many = Pairs(tuple(f"i{n}" for n in range(4000)), np.ones(4000), np.r_[np.full(30, np.nan), np.ones(3970)])
    assert decide(many, margin=0.02, confidence=0.95).outcome in ("non_inferior", "inconclusive")


def test_lost_scores_never_help_a_candidate_to_pass() -> None:
    ids, production = tuple(f"i{n}" for n in range(400)), np.ones(400)
    for lost in (np.arange(4), np.arange(396, 400)):
        candidate = np.ones(400)
        candidate[lost] = np.nan
        known = candidate.copy()
        known[lost] = 0.0
        with_lost = decide(Pairs(ids, production, candidate), margin=0.02, confidence=0.95)
        if with_lost.outcome == "non_inferior":
            assert decide(Pairs(ids, production, known), margin=0.02, confidence=0.95).outcome == "non_inferior"


@pytest.mark.parametrize("judge", [judge_suite, judge_sequentially])
@pytest.mark.parametrize("lost", [range(4), range(196, 200), range(0, 200, 50)])
def test_errors_of_the_endpoint_are_lost_scores_on_every_path(judge: object, lost: range) -> None:
    assert callable(judge)
    same = scores([1.0] * 200)
    for candidate, production in ((scores([1.0] * 200, lost=lost), same), (same, scores([1.0] * 200, lost=lost))):
        verdict = judge(candidate, production, margin=0.001, confidence=0.95)
        assert verdict.outcome == "inconclusive" and verdict.loss_p_value > 0.01
        assert judge(candidate, production, margin=0.2, confidence=0.95).outcome == "non_inferior"


@pytest.mark.parametrize("difference", [0.0, -0.05])
def test_levels_hold_with_lost_scores(difference: float) -> None:
    """No loss is called one at most 1 time in 100, and a loss of the margin passes at most 1 time in 20."""
    random, draws, margin = np.random.default_rng(18), 200, 0.05
    ids, counts = tuple(f"i{n}" for n in range(400)), {"non_inferior": 0, "regression": 0, "inconclusive": 0}
    for _ in range(draws):
        chance = random.random(400)
        candidate = np.where(chance < 0.05 - difference, 0.0, 1.0)
        production = np.where(chance > 0.95, 0.0, 1.0)
        worst = np.flatnonzero(candidate > production)[:4] if difference == 0 else np.flatnonzero(candidate == 0)[:4]
        candidate[worst] = np.nan
        counts[decide(Pairs(ids, production, candidate), margin=margin, confidence=0.95).outcome] += 1
    allowed = 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5
    assert counts["regression"] <= (0.01 + 3 * (0.01 * 0.99 / draws) ** 0.5) * draws or difference
    assert difference == 0 or counts["non_inferior"] <= allowed * draws
