"""Bounds of a paired difference: coverage by exact enumeration, and agreement with scipy."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from tasks.evaluate.verdict.paired import binomial_cdf, loss_p_value, lower_bound, paired_bounds, tango_z, upper_bound

tables = st.integers(1, 2000).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda g: st.tuples(st.just(n), st.just(g), st.integers(0, n - g)))
)


@given(tables)
@settings(deadline=None)
def test_bounds_hold_the_estimate_and_stay_in_range(table: tuple[int, int, int]) -> None:
    items, gained, lost = table
    low, high = paired_bounds(gained, lost, items, 0.95)
    estimate = (gained - lost) / items
    assert -1 <= low <= estimate + 1e-9
    assert estimate - 1e-9 <= high <= 1


@given(tables)
@settings(deadline=None)
def test_swapping_the_models_mirrors_the_interval(table: tuple[int, int, int]) -> None:
    items, gained, lost = table
    low, high = paired_bounds(gained, lost, items, 0.95)
    mirrored_low, mirrored_high = paired_bounds(lost, gained, items, 0.95)
    assert (low, high) == pytest.approx((-mirrored_high, -mirrored_low), abs=1e-6)


@given(tables)
@settings(deadline=None)
def test_more_confidence_is_a_wider_interval(table: tuple[int, int, int]) -> None:
    items, gained, lost = table
    low, high = paired_bounds(gained, lost, items, 0.9)
    wider_low, wider_high = paired_bounds(gained, lost, items, 0.99)
    assert wider_low <= low + 1e-9
    assert wider_high >= high - 1e-9


@pytest.mark.parametrize(("gained", "lost"), [(10, 3), (0, 8), (40, 40)])
def test_at_no_difference_it_is_mcnemars_statistic(gained: int, lost: int) -> None:
    assert tango_z(gained, lost, 200, 0.0) == pytest.approx((gained - lost) / (gained + lost) ** 0.5)


def test_no_flips_in_few_items_prove_little() -> None:
    low, _ = paired_bounds(0, 0, 20, 0.95)
    assert low < -0.1
    low, _ = paired_bounds(0, 0, 2000, 0.95)
    assert low > -0.002


def test_bounds_solve_the_equation_they_stand_for() -> None:
    """Each bound is where the score statistic meets the deviate of the confidence."""
    low, high = paired_bounds(8, 22, 150, 0.95)
    deviate = norm.ppf(0.95)
    assert tango_z(8, 22, 150, low) == pytest.approx(deviate, abs=1e-6)
    assert tango_z(8, 22, 150, high) == pytest.approx(-deviate, abs=1e-6)


@pytest.mark.parametrize(("items", "discordance"), [(150, 0.05), (300, 0.1), (120, 0.2)])
def test_true_loss_at_the_margin_passes_at_most_as_often_as_promised(items: int, discordance: float) -> None:
    """Size of the non-inferiority test at its hardest point, 4,000 draws; 5 % and four standard errors above."""
    margin, draws = 0.04, 4000
    random = np.random.default_rng(7)
    lost_share, gained_share = (discordance + margin) / 2, (discordance - margin) / 2
    counts = random.multinomial(items, [gained_share, lost_share, 1 - discordance], size=draws)
    # Equal tables are tested once.
    different, times = np.unique(counts, axis=0, return_counts=True)
    deviate = norm.ppf(0.95)
    passes = [tango_z(gained, lost, items, -margin) > deviate for gained, lost, _ in different.tolist()]
    passed = times[passes].sum()
    assert passed / draws < 0.05 + 4 * (0.05 * 0.95 / draws) ** 0.5


@given(st.integers(1, 3000), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@settings(deadline=None)
def test_binomial_chances_are_scipys(trials: int, share: float, chance: float) -> None:
    successes = round(share * trials)
    assert binomial_cdf(successes, trials, chance) == pytest.approx(binom.cdf(successes, trials, chance), abs=1e-9)


@pytest.mark.parametrize(("gained", "lost", "p_value"), [(0, 0, 1.0), (0, 5, 1 / 32), (3, 1, 15 / 16), (1, 3, 5 / 16)])
def test_the_sign_test_counts_flips(gained: int, lost: int, p_value: float) -> None:
    assert loss_p_value(gained, lost) == pytest.approx(p_value)


@pytest.mark.parametrize(
    ("items", "margin"), [(50, 0.1), (133, 0.02), (160, 0.02), (200, 0.005), (300, 0.02), (300, 0.05), (600, 0.005)]
)
@pytest.mark.parametrize("side", ["passes", "is a regression"])
def test_no_discordance_makes_the_test_err_more_often_than_promised(items: int, margin: float, side: str) -> None:
    """Exact enumeration at a true loss of the margin, from all flips one way to a discordance of eight margins."""

    def passes(gained: int, lost: int) -> bool:
        return lower_bound(gained, lost, items, 0.95) > -margin

    def is_regression(gained: int, lost: int) -> bool:
        return upper_bound(gained, lost, items, 0.9) < -margin and loss_p_value(gained, lost) <= 0.01

    @cache
    def last_below(gained: int) -> int:
        """Most losses that still pass, or that are no regression yet: the tests are monotone in the losses."""
        low, high = -1, items - gained + 1
        while high - low > 1:
            middle = (low + high) // 2
            before = passes(gained, middle) if side == "passes" else not is_regression(gained, middle)
            low, high = (middle, high) if before else (low, middle)
        return low

    for discordance in margin * np.array([1.0, 1.05, 1.2, 1.5, 2.0, 4.0, 8.0]):
        lost_share, gained_share = (discordance + margin) / 2, (discordance - margin) / 2
        chance = 0.0
        for gained in range(items + 1):
            weight = binom.pmf(gained, items, gained_share)
            if weight < 1e-7:
                continue
            likely = binom.pmf(np.arange(items - gained + 1), items - gained, lost_share / (1 - gained_share))
            last = last_below(gained)
            chance += weight * (likely[: last + 1].sum() if side == "passes" else likely[last + 1 :].sum())
        assert chance <= (0.055 if side == "passes" else 0.115)
