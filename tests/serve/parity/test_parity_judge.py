"""The statistics by themselves: error rates by simulation, and what must always be refused."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.serve.parity.judge import (
    DEFAULT_NATS,
    LEAST_SHARE,
    allowed_beside,
    judge,
    log_chance,
    lower_bound,
    noise_scale,
)
from tasks.serve.parity.measure import Gauge, Measured
from tasks.serve.parity.probes import Kind

KINDS: dict[Kind, int] = {"short": 16, "neighbours": 32, "streamed": 8, "chat": 12, "long": 4, "stop": 4}


def rows(nats: Sequence[float], kind: Kind = "short", gauge: Gauge = "top") -> list[Measured]:
    return [Measured(kind=kind, gauge=gauge, name=str(n), nats=value, detail="") for n, value in enumerate(nats)]


def draw(numbers: Any, shape: str, scale: float, count: int) -> list[float]:
    """Distances of a sound engine: exponential of that scale, or of a tail that is no heavier."""
    if shape == "exponential":
        return list(numbers.exponential(scale, count))
    if shape == "constant":
        return [scale] * count
    if shape == "half normal":
        return [abs(distance) for distance in numbers.normal(0, scale, count)]
    return list(np.where(numbers.random(count) < 0.1, numbers.exponential(scale, count), 0))


@pytest.mark.parametrize("shape", ["exponential", "constant", "half normal", "mostly nothing"])
def test_the_false_alarm_rate_is_at_most_the_stated_one(shape: str) -> None:
    numbers, error, runs, refused = np.random.default_rng(5), 0.05, 800, 0
    for _ in range(runs):
        measured = [row for kind, n in KINDS.items() for row in rows(draw(numbers, shape, 0.1, n), kind)]
        refused += any(group.diverges for group in judge(measured, {"top": 0.1}, error))
    # Three standard errors of the simulation above the stated rate.
    assert refused / runs <= error + 3 * (error * (1 - error) / runs) ** 0.5


@given(
    st.sampled_from(sorted(KINDS)),
    st.floats(0.01, 0.3),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_kind_that_is_far_off_is_refused_and_named(kind: str, allowed: float, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    measured = [
        row
        for name, n in KINDS.items()
        for row in rows(list(numbers.exponential(allowed / 3, n) + (10 * allowed if name == kind else 0)), name)
    ]
    assert [group.kind for group in judge(measured, {"top": allowed}) if group.diverges] == [kind]


@given(st.lists(st.floats(0, 15), min_size=2, max_size=40), st.floats(1e-6, 0.4))
@settings(deadline=None)
def test_the_reported_bound_agrees_with_the_decision(nats: list[float], error: float) -> None:
    low = lower_bound(nats, error)
    assert 0 <= low <= sum(nats) / len(nats)
    if low > 1e-6:
        assert log_chance(nats, low * 1.001) > log(error)
        assert log_chance(nats, low * 0.999) < log(error)


@given(st.lists(st.floats(0, 15), min_size=1, max_size=60), st.floats(0.1, 10))
@example([5e-324], 1.0)
@settings(deadline=None)
def test_the_noise_scale_is_at_most_the_maximum_and_scales_linearly(nats: list[float], times: float) -> None:
    scale = noise_scale(nats)
    assert 0 <= scale <= max(nats) + 1e-12
    assert noise_scale([times * value for value in nats]) == pytest.approx(times * scale, rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(0.001, 15), min_size=4, max_size=60))
@settings(deadline=None)
def test_distances_do_not_contradict_their_own_noise_scale(nats: list[float]) -> None:
    groups = judge(rows(nats), {"top": noise_scale(nats)})
    assert not any(group.diverges for group in groups)


def test_the_noise_scale_converges_to_that_of_the_distribution() -> None:
    nats = np.random.default_rng(1).exponential(0.2, 2_000)
    assert noise_scale(nats.tolist()) == pytest.approx(0.2, rel=0.15)


def test_noise_cannot_grow_from_one_promotion_to_the_next() -> None:
    loud, silent = rows([5.0] * 40), rows([0.0] * 40)
    assert allowed_beside(loud)["top"] == DEFAULT_NATS["top"]
    assert allowed_beside(silent)["top"] == pytest.approx(LEAST_SHARE * DEFAULT_NATS["top"])
    assert allowed_beside([])["top"] == DEFAULT_NATS["top"]


def test_two_outliers_among_many_prompts_suffice() -> None:
    assert judge(rows([0.001] * 30 + [7.0, 7.0]))[0].diverges


def test_the_most_suspicious_kind_comes_first() -> None:
    groups = judge(rows([0.0] * 8, "short") + rows([3.0] * 8, "long"))
    assert [group.name for group in groups] == ["long/top", "short/top"]
    assert [group.diverges for group in groups] == [True, False]
