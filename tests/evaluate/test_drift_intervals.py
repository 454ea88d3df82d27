from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.evaluate.drift.intervals import (
    Interval,
    mean_interval,
    positive_mean_interval,
    ratio_interval,
    rise_interval,
    share_interval,
)
from tasks.evaluate.drift.signals import Side, decide, make_signal

SUMS = st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 500)), min_size=2, max_size=30)


def ends(interval: Interval) -> tuple[float, float]:
    """Both ends of an interval that has them."""
    assert interval.low is not None and interval.high is not None
    return interval.low, interval.high


@settings(deadline=None)
@given(SUMS, st.sampled_from([0.9, 0.95, 0.99]))
@example([(4096.860748780722, 1), (4096.860748780722, 1)], 0.9)
def test_more_texts_narrow_an_interval_around_its_mean(texts: list[tuple[float, int]], confidence: float) -> None:
    sums, sizes = [total for total, _ in texts], [float(size) for _, size in texts]
    few = mean_interval(sums, sizes, confidence)
    many = mean_interval(sums * 3, sizes * 3, confidence)
    assert few.mean == pytest.approx(sum(sums) / sum(sizes))
    assert few.low is not None and few.high is not None and few.low <= few.mean <= few.high
    assert many.low is not None and many.high is not None
    # Equal texts give an interval without width, up to the rounding of its own ends.
    rounding = 1e-12 * max(1.0, abs(few.mean))
    assert many.high - many.low <= (few.high - few.low) * (1 + 1e-9) + rounding


@settings(deadline=None)
@given(SUMS)
def test_an_interval_of_a_divergence_is_never_below_zero(texts: list[tuple[float, int]]) -> None:
    found = positive_mean_interval([total for total, _ in texts], [float(size) for _, size in texts], 0.95)
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= found.mean <= found.high


def test_equal_texts_give_students_interval() -> None:
    from scipy.stats import t

    values = [0.1, 0.4, 0.2, 0.5, 0.3]
    found = mean_interval([100 * value for value in values], [100.0] * 5, 0.95)
    half = t.ppf(0.95, 4) * np.std(values, ddof=1) / np.sqrt(5)
    assert found.low == pytest.approx(0.3 - half) and found.high == pytest.approx(0.3 + half)


def test_one_text_has_no_interval_and_decides_nothing() -> None:
    found = mean_interval([900.0], [100.0], 0.95)
    assert (found.mean, found.low, found.high) == (9.0, None, None)
    assert make_signal("KL", found, unit="nats a token", bound=0.25).outcome == "unsure"


def test_skewed_divergences_stay_above_the_bound_hardly_more_often_than_stated() -> None:
    # As skewed as KL over the held documents: a spread of a half to twice the median.
    rng, misses, repeats = np.random.default_rng(3), 0, 4000
    truth = float(np.exp(0.35**2 / 2))
    for _ in range(repeats):
        drawn = np.exp(rng.normal(0, 0.35, 16))
        found = positive_mean_interval(list(drawn), [1.0] * 16, 0.95)
        assert found.high is not None
        misses += found.high < truth
    assert 0.04 < misses / repeats < 0.08


@given(st.integers(0, 60), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_share_of_independent_items_is_clopper_pearsons(hits: int, more: int) -> None:
    from scipy.stats import binomtest

    items = hits + more
    found = share_interval([number < hits for number in range(items)], range(items), 0.95)
    exact = binomtest(hits, items).proportion_ci(0.90, "exact")
    assert found.low == pytest.approx(exact.low) and found.high == pytest.approx(exact.high)
    low, high = ends(found)
    assert low <= hits / items <= high


def test_items_of_one_conversation_count_for_less() -> None:
    hits = [number < 20 for number in range(100)]
    independent = share_interval(hits, range(100), 0.95)
    clustered = share_interval(hits, [number // 10 for number in range(100)], 0.95)
    assert independent.mean == clustered.mean == 0.2
    low, high = ends(independent)
    clustered_low, clustered_high = ends(clustered)
    assert clustered_high > high and clustered_low < low
    assert clustered.units == 10


def test_no_hits_in_ten_conversations_count_as_ten_items_not_a_hundred() -> None:
    found = share_interval([False] * 100, [number // 10 for number in range(100)], 0.95)
    assert found.high == pytest.approx(1 - 0.05 ** (1 / 10))


def test_no_items_decide_nothing() -> None:
    assert share_interval([], [], 0.95).high is None
    assert rise_interval([], [], [], 0.95).high is None
    assert ratio_interval([], [], [], 0.95).high is None


def test_a_rise_is_paired() -> None:
    was, now = [False] * 200, [number < 10 for number in range(200)]
    found = rise_interval(was, now, range(200), 0.95)
    assert found.mean == 0.05
    low, high = ends(found)
    assert 0 < low < 0.05 < high < 0.1
    low, high = ends(rise_interval(now, now, range(200), 0.95))
    assert low < 0 < high < 0.02


def test_ten_times_as_long_and_a_tenth_is_no_change() -> None:
    found = ratio_interval([10, 10], [100, 1], range(2), 0.95)
    assert found.mean == pytest.approx(1)
    twice = ratio_interval([10, 20, 30, 40], [20, 40, 60, 80], range(4), 0.95)
    assert twice.low == pytest.approx(2) and twice.high == pytest.approx(2)


@pytest.mark.parametrize(
    ("low", "high", "bound", "side", "outcome"),
    [
        (0.1, 0.2, 0.25, "at most", "ok"),
        (0.2, 0.3, 0.25, "at most", "unsure"),
        (0.3, 0.4, 0.25, "at most", "worse"),
        (0.0, 0.0, 0.0, "at most", "ok"),
        (0.8, 0.9, 0.75, "at least", "ok"),
        (0.7, 0.9, 0.75, "at least", "unsure"),
        (0.5, 0.6, 0.75, "at least", "worse"),
        (0.7, 1.4, 1.5, "within a factor", "ok"),
        (0.3, 0.5, 1.5, "within a factor", "worse"),
        (1.6, 1.9, 1.5, "within a factor", "worse"),
        (0.6, 1.0, 1.5, "within a factor", "unsure"),
        (0.3, 0.4, None, "at most", "reported"),
        (None, None, 0.25, "at most", "unsure"),
    ],
)
def test_the_interval_decides(
    low: float | None, high: float | None, bound: float | None, side: Side, outcome: str
) -> None:
    assert decide(low, high, bound, side) == outcome
