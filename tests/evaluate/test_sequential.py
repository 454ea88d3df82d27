"""The sequential verdict: its invariants, and its error rates at the hardest point (fixed seeds)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from tasks.evaluate.verdict.sequential import (
    Decision,
    Levels,
    Pairs,
    decide,
    forecast,
    items_needed,
    judge_complete,
    power,
)

Array = NDArray[np.float64]

# Without a deadline: a busy machine must not fail an example.
unhurried = settings(deadline=None, max_examples=60)


def pairs_of(
    gain: ArrayLike,
    clusters: NDArray[np.int64] | None = None,
    production_confidence: Array | None = None,
    ids: tuple[str, ...] | None = None,
) -> Pairs:
    gain = np.asarray(gain, dtype=float)
    production = np.where(gain < 0, 1.0, 0.0)
    ids = ids or tuple(f"i{number}" for number in range(len(gain)))
    return Pairs(ids, production, production + gain, clusters, production_confidence)


def flips(random: np.random.Generator, items: int, discordance: float | Array, difference: float | Array) -> Array:
    chance = random.random(items)
    gained, lost = (discordance + difference) / 2, (discordance - difference) / 2
    return np.asarray((chance < gained).astype(float) - (chance >= 1 - lost))


def outcomes(
    draw: Callable[[np.random.Generator], Pairs], draws: int = 250, margin: float = 0.02
) -> tuple[dict[str, float], list[Decision]]:
    """Shares of the outcomes of simulated suites at a confidence of 0.95, and the decisions."""
    random = np.random.default_rng(3)
    decisions = [decide(draw(random), margin=margin, confidence=0.95) for _ in range(draws)]
    names = ("non_inferior", "regression")
    return {name: sum(decision.outcome == name for decision in decisions) / draws for name in names}, decisions


def bounds_of(decision: Decision) -> tuple[float, float, float]:
    """Lower bound, estimate and upper bound of a decision that has them."""
    assert decision.low is not None and decision.estimate is not None and decision.high is not None
    return decision.low, decision.estimate, decision.high


gains = st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.0, 0.5, 1.0]), min_size=1, max_size=400)
margins = st.sampled_from([0.005, 0.02, 0.1, 0.3])


@given(gains, margins, st.booleans())
@unhurried
def test_the_numbers_fit_together(gain: list[float], margin: float, with_confidence: bool) -> None:
    confidences = np.arange(len(gain), dtype=float) if with_confidence else None
    result = decide(pairs_of(gain, production_confidence=confidences), margin=margin, confidence=0.95)
    low, estimate, high = bounds_of(result)
    assert -1 <= low <= estimate <= high <= 1
    assert 1 <= result.items_used <= result.items == len(gain)
    if result.outcome == "non_inferior":
        assert low > -margin
    elif result.outcome == "regression":
        assert high < -margin
        assert estimate < 0
    else:
        assert result.items_used == result.items


@given(gains, margins)
@unhurried
def test_no_suite_passes_with_too_few_items_to_rule_out_an_unseen_loss(gain: list[float], margin: float) -> None:
    """Were a share `margin` of items lost, so few could all look fine more than one time in twenty."""
    result = decide(pairs_of(gain), margin=margin, confidence=0.95)
    if result.outcome == "non_inferior" and min(gain) == max(gain) == 0:
        assert (1 - margin) ** result.items_used <= 0.05


@given(gains, margins, st.randoms(use_true_random=False))
@unhurried
def test_items_after_the_decision_do_not_change_it(gain: list[float], margin: float, random: Random) -> None:
    result = decide(pairs_of(gain), margin=margin, confidence=0.95)
    rest = gain[result.items_used :]
    random.shuffle(rest)
    other = decide(pairs_of([*gain[: result.items_used], *rest]), margin=margin, confidence=0.95)
    if result.items_used < len(gain):
        assert (other.outcome, other.items_used, other.low) == (result.outcome, result.items_used, result.low)


@given(gains, st.randoms(use_true_random=False))
@unhurried
def test_with_confidence_only_the_items_count_not_the_order_of_lines(gain: list[float], random: Random) -> None:
    lines = [(f"i{number}", value, float(number % 7)) for number, value in enumerate(gain)]
    ids, values, confidences = zip(*lines)
    first = decide(pairs_of(values, production_confidence=np.array(confidences), ids=ids), margin=0.1, confidence=0.95)
    random.shuffle(lines)
    ids, values, confidences = zip(*lines)
    shuffled = pairs_of(values, production_confidence=np.array(confidences), ids=ids)
    assert decide(shuffled, margin=0.1, confidence=0.95) == first


@given(gains)
@unhurried
def test_ids_do_not_matter_in_file_order(gain: list[float]) -> None:
    renamed = pairs_of(gain, ids=tuple(f"other-{number}" for number in range(len(gain))))
    assert decide(renamed, margin=0.1, confidence=0.95) == decide(pairs_of(gain), margin=0.1, confidence=0.95)


@given(gains)
@unhurried
def test_clusters_of_one_are_no_clusters(gain: list[float]) -> None:
    singletons = pairs_of(gain, clusters=np.arange(len(gain)))
    assert decide(singletons, margin=0.1, confidence=0.95) == decide(pairs_of(gain), margin=0.1, confidence=0.95)


@given(gains, st.sampled_from([(0.02, 0.05), (0.05, 0.1), (0.1, 0.3)]))
@unhurried
def test_a_wider_margin_never_turns_a_pass_into_a_failure(gain: list[float], two: tuple[float, float]) -> None:
    narrow, wide = two
    bounds = [judge_complete(pairs_of(gain), Levels(margin, 0.95, final_analysis=False)) for margin in two]
    if bounds[0].low > -narrow:
        assert bounds[1].low > -wide
    assert not (bounds[1].high < -wide and bounds[0].high >= -narrow)


@given(gains)
@unhurried
def test_a_whole_suites_bounds_are_mirrored_when_the_models_are_swapped(gain: list[float]) -> None:
    """Passing at 90 % and being worse at 95 % have the same error of 0.1, so one mirrors the other."""
    low = judge_complete(pairs_of(gain), Levels(0.02, 0.9, final_analysis=False)).low
    high = judge_complete(pairs_of([-value for value in gain]), Levels(0.02, 0.95, final_analysis=False)).high
    assert low == pytest.approx(-high, abs=1e-5)


def test_identical_models_pass_early_and_never_on_few_items() -> None:
    same = decide(pairs_of(np.zeros(4000)), margin=0.02, confidence=0.95)
    assert same.outcome == "non_inferior"
    assert 149 <= same.items_used <= 260
    assert decide(pairs_of(np.zeros(50)), margin=0.02, confidence=0.95).outcome == "inconclusive"
    weighted = decide(pairs_of(np.zeros(4000), production_confidence=np.arange(4000.0)), margin=0.02, confidence=0.95)
    assert weighted.outcome == "non_inferior"
    assert weighted.items_used <= 320


def test_a_broken_model_is_caught_within_a_few_dozen_items() -> None:
    random = np.random.default_rng(0)
    result = decide(pairs_of(flips(random, 4000, 0.5, -0.4)), margin=0.02, confidence=0.95)
    assert result.outcome == "regression"
    assert result.items_used <= 60


@pytest.mark.parametrize("discordance", [0.02, 0.1])
def test_a_loss_of_the_margin_passes_at_most_at_the_error_rate(discordance: float) -> None:
    """5 % and three standard errors; the long version with 5,000 draws is benchmarks/verdict_errors.py."""
    shares, _ = outcomes(lambda random: pairs_of(flips(random, 4000, discordance, -0.02)))
    assert shares["non_inferior"] <= 0.05 + 3 * (0.05 * 0.95 / 250) ** 0.5


@pytest.mark.parametrize("kind", ["good", "useless", "misleading"])
def test_production_confidence_of_any_worth_keeps_the_error(kind: str) -> None:
    def draw(random: np.random.Generator) -> Pairs:
        chance = np.repeat([0.3, 0.05, 0.01], [300, 500, 700])
        gain = flips(random, 1500, chance, -0.02 * chance / chance.mean())
        confidences = {"good": np.arange(1500.0), "useless": random.random(1500), "misleading": np.arange(1500.0)[::-1]}
        return pairs_of(gain, production_confidence=confidences[kind])

    shares, _ = outcomes(draw, draws=150)
    assert shares["non_inferior"] <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5


def test_good_production_confidence_saves_items() -> None:
    chance = np.repeat([0.33, 0.12, 0.05, 0.005], [400, 400, 1200, 2000])
    confidences = np.arange(4000.0)

    def gains_of(random: np.random.Generator) -> Array:
        return flips(random, 4000, chance, 0.0)

    _, plain = outcomes(lambda random: pairs_of(random.permutation(gains_of(random))), draws=60)
    _, ordered = outcomes(lambda random: pairs_of(gains_of(random), production_confidence=confidences), draws=60)
    assert sum(decision.items_used for decision in ordered) < 0.9 * sum(decision.items_used for decision in plain)


def test_the_estimate_is_unbiased_with_weighted_sampling() -> None:
    """A suite too small to stop early at so narrow a margin: the mean over suites is the true difference."""
    chance = np.repeat([0.4, 0.1, 0.02], [200, 300, 500])

    def draw(random: np.random.Generator) -> Pairs:
        return pairs_of(flips(random, 1000, chance, 0.3 * chance), production_confidence=np.arange(1000.0))

    _, decisions = outcomes(draw, draws=200, margin=0.001)
    assert np.mean([bounds_of(decision)[1] for decision in decisions]) == pytest.approx(0.3 * chance.mean(), abs=0.003)


@pytest.mark.parametrize("mixed", [False, True])
def test_clusters_that_flip_as_one_count_as_one(mixed: bool) -> None:
    def draw(random: np.random.Generator) -> Pairs:
        gain, clusters = np.repeat(flips(random, 150, 0.1, -0.02), 10), np.repeat(np.arange(150), 10)
        if mixed:
            gain, clusters = gain.reshape(150, 10).T.ravel(), clusters.reshape(150, 10).T.ravel()
        return pairs_of(gain, clusters=clusters)

    shares, _ = outcomes(draw, draws=300)
    assert shares["non_inferior"] <= 0.05


def test_few_clusters_are_not_enough_however_many_items() -> None:
    gain = np.zeros(4000)
    few = pairs_of(gain, clusters=np.repeat(np.arange(20), 200))
    assert decide(few, margin=0.02, confidence=0.95).outcome == "inconclusive"


def test_rare_total_losses_among_graded_scores_do_not_slip_through() -> None:
    def draw(random: np.random.Generator) -> Pairs:
        return pairs_of(np.where(random.random(1000) < 0.03, -1.0, 0.01 / 0.97))

    shares, _ = outcomes(draw, draws=300)
    assert shares["non_inferior"] <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


def test_no_loss_is_no_regression_even_where_the_margin_is_far_below_the_noise() -> None:
    shares, _ = outcomes(lambda random: pairs_of(flips(random, 300, 0.4, 0.0)), draws=600, margin=0.001)
    assert shares["regression"] <= 0.01 + 3 * (0.01 * 0.99 / 600) ** 0.5


def test_missing_scores_count_against_the_candidate_and_many_make_it_invalid() -> None:
    gain = np.zeros(1000)
    pairs = pairs_of(gain)
    production = np.ones(1000)
    candidate = production.copy()
    candidate[:8] = np.nan
    few = decide(Pairs(pairs.ids, production, candidate), margin=0.02, confidence=0.95)
    assert bounds_of(few)[1] < 0
    candidate[:20] = np.nan
    many = decide(Pairs(pairs.ids, production, candidate), margin=0.02, confidence=0.95)
    assert (many.outcome, many.items_used, many.low) == ("invalid", 0, None)
    assert "20 of 1000" in many.reason


def test_a_sorted_file_can_be_shuffled() -> None:
    gain = np.concatenate([np.zeros(2000), -np.ones(200), np.zeros(1800)])
    assert decide(pairs_of(gain), margin=0.02, confidence=0.95).outcome == "non_inferior"
    assert decide(pairs_of(gain), margin=0.02, confidence=0.95, shuffle=True).outcome == "regression"


def test_the_planner_agrees_with_simulation() -> None:
    shares, decisions = outcomes(lambda random: pairs_of(flips(random, 4000, 0.05, 0.0)), draws=200)
    expected = forecast(4000, 0.02, 0.95, 0.05)
    assert expected.power == pytest.approx(shares["non_inferior"], abs=0.03)
    assert expected.expected_items == pytest.approx(np.mean([decision.items_used for decision in decisions]), rel=0.15)
    assert expected.can_decide


def test_the_planner_knows_a_hopeless_suite() -> None:
    assert power(100, 0.02, 0.95, 0.0) == 0.0
    hopeless = forecast(100, 0.02, 0.95, 0.05)
    assert (hopeless.least_items, hopeless.can_decide) == (149, False)


@given(st.sampled_from([0.01, 0.02, 0.05, 0.1]), st.floats(0.02, 0.4), st.sampled_from([0.9, 0.95, 0.99]))
@unhurried
def test_items_needed_are_just_enough(margin: float, discordance: float, confidence: float) -> None:
    needed = items_needed(margin, confidence, discordance)
    assert power(needed, margin, confidence, discordance) >= 0.9
    assert power(needed - 1, margin, confidence, discordance) < 0.9
