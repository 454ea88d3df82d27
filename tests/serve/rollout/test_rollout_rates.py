"""Whole rollouts, simulated with the product's own decisions; benchmarks/rollout_judge.py has many more."""

from __future__ import annotations

import pytest

from benchmarks.rollout_judge import Cell, Truth

SEED = 20261201


@pytest.mark.parametrize("sticky", [False, True], ids=["spread", "sticky"])
@pytest.mark.parametrize("errors", [0.0, 0.1])
def test_a_version_like_production_is_not_stopped(errors: float, sticky: bool) -> None:
    like = Truth("like production", errors=errors)
    ends = Cell(like, like, per_second=2, mix="by client", sticky=sticky, seed=SEED).ends(4)
    assert [end.why for end in ends if end.verb == "stop"] == []


@pytest.mark.parametrize(
    "bad",
    [
        Truth("errors", errors=0.2),
        Truth("stalls", stalls=1.0),
        Truth("slow", slower=2.0),
    ],
    ids=lambda truth: truth.name,
)
def test_a_bad_version_is_stopped_before_it_has_half_of_the_traffic(bad: Truth) -> None:
    ends = Cell(bad, Truth(), per_second=10, mix="two kinds", sticky=False, seed=SEED).ends(3)
    assert [(end.verb, end.weight < 50) for end in ends] == [("stop", True)] * 3
