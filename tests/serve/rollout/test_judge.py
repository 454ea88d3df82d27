"""Decisions of the rollout's judge, and its error rate."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import pytest

from tasks.serve.rollout.error_budget import FALSE_STOP, ErrorBudget
from tasks.serve.rollout.judge import judge
from tasks.serve.rollout.sample import Outcome, Sample
from tasks.serve.rollout.signals import NAMES, CanarySignal
from weighbridge.line import Rollout

ERROR = 0.01


def sample(
    count: int = 300,
    failed: int = 0,
    slower: float = 1.0,
    tokens: float = 100.0,
    empty: int = 0,
    seed: int = 1,
    outcome: Outcome = Outcome.FAILED,
) -> Sample:
    """Simulate an engine's requests: skewed times, answers of similar length; the first ones fail."""
    random = np.random.default_rng(seed)
    first = random.lognormal(4.5, 0.4, count) * slower
    length = np.maximum(2, random.normal(tokens, tokens / 5, count).round())
    length[failed : failed + empty] = 0
    pace = 30.0 * slower * random.lognormal(0, 0.2, count)
    return columns(
        count,
        outcome=np.where(np.arange(count) < failed, outcome, Outcome.ANSWERED),
        first_ms=first,
        token_times_ms=pace,
        durations_ms=first + length * 30.0 * slower,
        token_counts=length,
        byte_counts=length * 200,
    )


def columns(count: int, **given: Any) -> Sample:
    """A sample with these columns; what failed has no times and lengths."""
    missing = np.full(count, np.nan)
    outcome = given.pop("outcome", np.zeros(count, int))
    numbers = ("waited_ms", "first_ms", "token_times_ms", "durations_ms", "token_counts", "byte_counts")
    fields: dict[str, Any] = {
        "at": np.arange(count, dtype=float),
        "key": np.full(count, "k"),
        "conversation": np.full(count, ""),
        "prompt": np.full(count, 100.0),
        "outcome": outcome,
        **{
            name: np.where((outcome == Outcome.ANSWERED) | (name == "waited_ms"), given.pop(name, missing), np.nan)
            for name in numbers
        },
    }
    return Sample(**{**fields, **given})


def outcomes(candidate: Sample, production: Sample) -> dict[str, str]:
    return {signal.name: signal.outcome for signal in judge(candidate, production, Rollout(), ERROR)}


def test_equal_versions_are_no_worse_in_any_signal() -> None:
    found = outcomes(sample(2000, seed=1), sample(2000, seed=2))
    assert tuple(found) == NAMES
    assert set(found.values()) <= {"no_worse", "better"}


@pytest.mark.parametrize(
    ("bad", "signal"),
    [
        ({"failed": 30}, "errors"),
        ({"slower": 2.0}, "first byte p50"),
        ({"slower": 2.0}, "time per token p50"),
        ({"slower": 2.0}, "latency p50"),
        ({"slower": 2.5}, "latency p95"),
        ({"empty": 40}, "empty answers"),
        ({"tokens": 30.0}, "length"),
        ({"tokens": 300.0}, "length"),
    ],
)
def test_clearly_worse_versions_are_judged_worse(bad: dict[str, Any], signal: str) -> None:
    assert outcomes(sample(**bad), sample(1000, seed=2))[signal] == "worse"


def test_clearly_better_versions_are_judged_better() -> None:
    found = outcomes(sample(slower=0.5), sample(1000, failed=200, seed=2))
    assert found["errors"] == found["latency p50"] == found["first byte p50"] == "better"


def test_few_requests_decide_nothing() -> None:
    found = outcomes(sample(8, failed=1), sample(50, seed=2))
    assert set(found.values()) == {"inconclusive"}


def test_problems_of_both_versions_are_not_charged_to_the_new_one() -> None:
    assert outcomes(sample(failed=60), sample(1000, failed=200, seed=2))["errors"] != "worse"


def test_without_production_the_share_itself_is_limited() -> None:
    found = outcomes(sample(100, failed=20), Sample())
    assert found["errors"] == "worse"
    assert found["latency p50"] == "inconclusive"


def test_without_token_counts_a_tiny_answer_is_empty() -> None:
    candidate, production = sample(empty=40), sample(1000, seed=2)
    for requests in (candidate, production):
        requests.byte_counts = [300 + 200 * tokens for tokens in requests.token_counts]
        requests.token_counts = requests.token_times_ms = [nan] * requests.requests
    found = outcomes(candidate, production)
    assert found["empty answers"] == "worse"
    assert found["time per token p50"] == "inconclusive"


def test_a_signal_states_value_and_limit() -> None:
    [errors, *_] = judge(sample(failed=30), sample(1000, seed=2), Rollout(), ERROR)
    assert "errors 10.0%" in errors.sentence
    assert "production's 0.0%" in errors.sentence
    assert "allows 0.01" in errors.sentence


def test_interim_results_stay_within_the_step_s_error_budget() -> None:
    budget = ErrorBudget(steps=4)
    assert budget.due(3, due=False, overdue=False) is None
    requests, spent = 4, 0.0
    while requests < 10**6:
        assert budget.due(requests, due=False, overdue=False) == "early"
        spent += budget.spend("early", requests)
        assert budget.due(requests + 1, due=False, overdue=False) is None
        requests *= 2
    assert budget.due(3, due=True, overdue=False) == "due"
    spent += budget.spend("due", 3)
    assert budget.due(3, due=True, overdue=False) is None
    assert budget.due(3, due=True, overdue=True) == "overdue"
    spent += budget.spend("overdue", 3)
    assert budget.due(3, due=True, overdue=True) is None
    while requests < 10**9:
        requests = int(requests * 1.3)
        assert budget.due(requests, due=True, overdue=True) == "late"
        spent += budget.spend("late", requests)
    assert 0 < spent < FALSE_STOP / 4


def test_versions_at_the_limit_are_seldom_stopped() -> None:
    """Errors at the allowed share, with a step's interim results; benchmarks/rollout_judge.py has the rest."""
    random, stopped, rollouts = np.random.default_rng(9), 0, 100
    for _ in range(rollouts):
        budget, rollout = ErrorBudget(steps=1), Rollout(max_error_share=0.02)
        failures = random.random(400) < 0.02
        production = columns(4000, outcome=(random.random(4000) < 0.001).astype(int))
        for requests in range(1, 401):
            if moment := budget.due(requests, due=requests == 400, overdue=False):
                candidate = columns(requests, outcome=failures[:requests].astype(int))
                [errors, *_] = judge(candidate, production, rollout, budget.spend(moment, requests))
                if errors.outcome == "worse":
                    stopped += 1
                    break
    assert stopped <= FALSE_STOP * rollouts


def undecided(name: str, candidate: float | None, production: float | None, **changes: object) -> CanarySignal:
    """An inconclusive signal; 1.5 times production's value is allowed, or a share of 0.01."""
    share = name in ("errors", "empty answers")
    fields = {
        "name": name,
        "outcome": "inconclusive",
        "asks": "errors" if share else "speed",
        "holds": False,
        "candidate": candidate,
        "production": production,
        "low": None,
        "high": None,
        "allowed": 0.01 if share else 1.5,
    }
    return CanarySignal.model_validate({**fields, **changes})


@pytest.mark.parametrize(
    ("name", "candidate", "production", "leans"),
    [
        # Rises up to 20 ms are ignored, since no user notices; 21 ms are not.
        ("latency p50", 6.0, 3.0, False),
        ("latency p50", 40.0, 20.0, False),
        ("latency p50", 41.0, 20.0, True),
        ("first byte p50", 6.0, 3.0, False),
        ("latency p99", 90.0, 30.0, True),
        # The limit of the time per token is 5 ms.
        ("time per token p50", 10.0, 5.0, False),
        ("time per token p50", 11.0, 5.0, True),
        # A rise within the allowed ratio is ignored, however many milliseconds it has.
        ("latency p50", 1500.0, 1000.0, False),
        ("latency p50", 1501.0, 1000.0, True),
        ("latency p50", 10.0, 90.0, False),
        # Lengths have no such limit, and may be too short as well.
        ("length", 4.0, 2.0, True),
        ("length", 3.0, 2.0, False),
        ("length", 2.0, 4.0, True),
        ("length", 2.0, 3.0, False),
        # Shares lean beyond what is allowed and beyond production's.
        ("errors", 0.02, 0.0, True),
        ("errors", 0.01, 0.0, False),
        ("errors", 0.02, 0.03, False),
        ("errors", 0.02, None, True),
        ("latency p50", 90.0, None, False),
        ("latency p50", None, 30.0, False),
        ("errors", None, 0.0, False),
    ],
)
def test_a_signal_leans_worse_only_beyond_the_noticeable_rise(
    name: str, candidate: float | None, production: float | None, leans: bool
) -> None:
    signal = undecided(name, candidate, production)
    assert signal.leans_worse is leans
    assert undecided(name, candidate, production, outcome="no_worse").leans_worse is False
    # Tail latencies would need too many requests.
    assert signal.waits is (leans and name != "latency p99")


def test_a_step_waits_for_unsure_signals_and_those_that_lean_worse() -> None:
    assert undecided("latency p50", 30.0, 30.0, holds=True).waits
    assert not undecided("latency p50", 30.0, 30.0).waits
    assert not undecided("latency p50", 30.0, 30.0, holds=True, outcome="no_worse").waits
    assert not undecided("latency p95", 90.0, 30.0).waits
    assert undecided("latency p95", 90.0, 30.0, holds=True).waits


@pytest.mark.parametrize(
    ("candidate_ms", "production_ms", "outcome"),
    [
        # At 30 against 15 ms the sum of two bounds exceeds 20 ms, and their difference does not.
        (30.0, 15.0, "no_worse"),
        (50.0, 15.0, "worse"),
        (7.5, 2.5, "no_worse"),
    ],
)
def test_the_rise_of_a_latency_is_a_difference(candidate_ms: float, production_ms: float, outcome: str) -> None:
    candidate = columns(500, durations_ms=np.linspace(candidate_ms - 1, candidate_ms + 1, 500))
    production = columns(500, durations_ms=np.linspace(production_ms - 1, production_ms + 1, 500))
    assert outcomes(candidate, production)["latency p50"] == outcome


@pytest.mark.parametrize(
    ("candidate_ms", "production_ms", "outcome"), [(9.0, 5.0, "no_worse"), (11.0, 5.0, "worse"), (7.0, 6.0, "no_worse")]
)
def test_the_rise_of_the_time_per_token_has_a_limit_of_its_own(
    candidate_ms: float, production_ms: float, outcome: str
) -> None:
    candidate = columns(500, token_times_ms=np.linspace(candidate_ms - 0.1, candidate_ms + 0.1, 500))
    production = columns(500, token_times_ms=np.linspace(production_ms - 0.1, production_ms + 0.1, 500))
    assert outcomes(candidate, production)["time per token p50"] == outcome
