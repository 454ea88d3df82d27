"""What is called worse, what is not, and how seldom the judge is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.serve.rollout.judge import FALSE_STOP, NAMES, Looks, judge
from tasks.serve.rollout.window import Sample
from weighbridge.line import Rollout

ERROR = 0.01


def sample(count=300, failed=0, slower=1.0, tokens=100.0, empty=0, seed=1) -> Sample:
    """Requests as an engine answers them: skewed times, every answer about as long as the next."""
    random = np.random.default_rng(seed)
    first = random.lognormal(4.5, 0.4, count - failed) * slower
    length = np.maximum(2, random.normal(tokens, tokens / 5, count - failed).round())
    length[:empty] = 0
    return Sample(
        requests=count,
        failed=failed,
        first_byte_ms=list(first),
        token_ms=[30.0 * slower * noise for noise in random.lognormal(0, 0.2, count - failed)],
        total_ms=list(first + length * 30.0 * slower),
        tokens=list(length),
        sent_bytes=list(length * 200),
    )


def outcomes(candidate: Sample, production: Sample, **plan: object) -> dict[str, str]:
    return {one.name: one.outcome for one in judge(candidate, production, Rollout(**plan), ERROR)}


def test_equal_versions_are_no_worse_in_anything_that_so_many_requests_can_show():
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
def test_what_is_plainly_worse_is_called_so(bad, signal):
    assert outcomes(sample(**bad), sample(1000, seed=2))[signal] == "worse"


def test_what_is_plainly_better_is_called_so():
    found = outcomes(sample(slower=0.5), sample(1000, failed=200, seed=2))
    assert found["errors"] == found["latency p50"] == found["first byte p50"] == "better"


def test_few_requests_decide_nothing():
    found = outcomes(sample(8, failed=1), sample(50, seed=2))
    assert set(found.values()) == {"inconclusive"}


def test_what_ails_both_is_not_held_against_the_new_version():
    assert outcomes(sample(failed=60), sample(1000, failed=200, seed=2))["errors"] != "worse"


def test_without_production_the_share_itself_is_limited():
    found = outcomes(sample(100, failed=20), Sample())
    assert found["errors"] == "worse"
    assert found["latency p50"] == "inconclusive"


def test_a_rise_that_nobody_feels_is_not_worse():
    quick, quicker = Sample(requests=500), Sample(requests=500)
    quick.total_ms, quicker.total_ms = list(np.linspace(6, 9, 500)), list(np.linspace(2, 3, 500))
    assert outcomes(quick, quicker)["latency p50"] == "no_worse"


def test_without_token_counts_an_answer_of_hardly_any_bytes_is_empty():
    candidate, production = sample(empty=40), sample(1000, seed=2)
    for one in (candidate, production):
        one.sent_bytes = [300 + 200 * tokens for tokens in one.tokens]
        one.tokens, one.token_ms = [], []
    found = outcomes(candidate, production)
    assert found["empty answers"] == "worse"
    assert found["time per token p50"] == "inconclusive"


def test_a_signal_says_what_was_found_and_what_is_allowed():
    [errors, *_] = judge(sample(failed=30), sample(1000, seed=2), Rollout(), ERROR)
    assert "errors 10.0%" in errors.sentence
    assert "production's 0.0%" in errors.sentence
    assert "allows 0.01" in errors.sentence


def test_however_often_one_looks_the_looks_spend_no_more_than_their_step():
    looks = Looks(steps=4)
    assert looks.due(3, due=False, overdue=False) is None
    requests, spent = 4, 0.0
    while requests < 10**6:
        assert looks.due(requests, due=False, overdue=False) == "early"
        spent += looks.spend("early", requests)
        assert looks.due(requests + 1, due=False, overdue=False) is None
        requests *= 2
    assert looks.due(3, due=True, overdue=False) == "due"
    spent += looks.spend("due", 3)
    assert looks.due(3, due=True, overdue=False) is None
    assert looks.due(3, due=True, overdue=True) == "overdue"
    spent += looks.spend("overdue", 3)
    assert looks.due(3, due=True, overdue=True) is None
    assert 0 < spent < FALSE_STOP / 4


def test_versions_at_the_very_limit_are_seldom_stopped():
    """Errors at the allowed share, looked at as often as a step does; benchmarks/rollout_judge.py has the rest."""
    random, stopped, rollouts = np.random.default_rng(9), 0, 100
    for _ in range(rollouts):
        looks, plan = Looks(steps=1), Rollout(max_error_share=0.02)
        failures = random.random(400) < 0.02
        base = Sample(requests=4000, failed=int(random.binomial(4000, 0.001)))
        for requests in range(1, 401):
            if moment := looks.due(requests, due=requests == 400, overdue=False):
                seen = Sample(requests=requests, failed=int(failures[:requests].sum()))
                [errors, *_] = judge(seen, base, plan, looks.spend(moment, requests))
                if errors.outcome == "worse":
                    stopped += 1
                    break
    assert stopped <= FALSE_STOP * rollouts
