"""Faults during a rollout: what users see and how the rollout ends; for the table of docs/evidence/rollout.md.

Each on a real Envoy before real processes, under eight streaming clients. The new engine is started without its
readiness check, as if it failed right after it; the old one is healthy.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from tasks.serve.rollout.canary import roll_out
from tests.serve.rollout.rollout_support import (
    GIVEN,
    clients,
    kill_when,
    lock_of,
    note,
    outcome,
    serve_first,
    start_mover,
    unproven,
    wait_for_weight,
    weights,
    with_rollout,
)
from tests.serve.serve_support import make_artifact, pid_of
from weighbridge.errors import RolloutAborted
from weighbridge.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"status": 500}, "errors"),
        ({"status": 400}, "errors"),
        ({"cut": True}, "errors"),
        ({"answer": ""}, "empty answers"),
        ({"answer": "go " * 60}, "length|latency"),
        ({"delay": 0.5}, "latency"),
    ],
    ids=["errors", "refusals", "cuts", "empty", "garbage", "slow"],
)
def test_a_new_version_that_goes_bad_is_rolled_back(
    settings: Settings,
    fleet: LocalFleet,
    gateway: Gateway,
    record_property: Callable[[str, object], None],
    flags: dict[str, Any],
    why: str,
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    bad = unproven(fleet, settings, **{"delay": 0.05, **flags})
    began = time.monotonic()
    with clients(settings, gateway) as load:
        with lock_of(settings) as lock, pytest.raises(RolloutAborted, match=why):
            roll_out(with_rollout(line, **GIVEN), "2", bad, gateway, lock)
        note(record_property, load, began)
    assert weights(gateway) == {"1": 100, "2": 0}
    assert all(answer.version in ("2", "") for answer in load.failed)


def test_a_killed_new_engine_recovers_or_is_rolled_back(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    began = time.monotonic()
    with clients(settings, gateway) as load:
        with lock_of(settings) as lock:
            kill_when(gateway, "2", 10, lambda: os.kill(pid_of(fleet, new), signal.SIGKILL))
            end = outcome(lambda: roll_out(with_rollout(line, **GIVEN), "2", new, gateway, lock))
        note(record_property, load, began)
    record_property("end", end)
    assert weights(gateway) in ({"1": 0, "2": 100}, {"1": 100, "2": 0})
    assert all(answer.version in ("2", "") for answer in load.failed)


def test_a_killed_old_engine_does_not_block_the_promotion(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    line, old = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    began = time.monotonic()
    with clients(settings, gateway) as load:
        with lock_of(settings) as lock:
            kill_when(gateway, "2", 10, lambda: os.kill(pid_of(fleet, old), signal.SIGKILL))
            end = outcome(lambda: roll_out(with_rollout(line, **GIVEN), "2", new, gateway, lock))
        note(record_property, load, began)
    record_property("end", end)
    assert end == ""
    assert weights(gateway) == {"1": 0, "2": 100}


def test_a_killed_envoy_recovers_its_weights_and_the_rollout_continues(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    envoy = Supervisor(settings).state("gateway")
    assert envoy is not None
    envoy_pid = envoy.pid
    began = time.monotonic()
    with clients(settings, gateway) as load:
        with lock_of(settings) as lock:
            kill_when(gateway, "2", 10, lambda: os.kill(envoy_pid, signal.SIGKILL))
            end = outcome(lambda: roll_out(with_rollout(line, **GIVEN), "2", new, gateway, lock))
        note(record_property, load, began)
    record_property("end", end)
    assert end == ""
    assert weights(gateway) == {"1": 0, "2": 100}


def test_a_killed_rollout_keeps_its_weights_and_the_next_resumes(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    began = time.monotonic()
    with clients(settings, gateway) as load:
        mover = start_mover(new)
        wait_for_weight(gateway, "2", 10)
        mover.send_signal(signal.SIGKILL)
        mover.wait()
        assert weights(gateway) == {"1": 90, "2": 10}
        with lock_of(settings) as lock:
            steps = roll_out(with_rollout(line, **GIVEN), "2", new, gateway, lock)
        note(record_property, load, began)
    assert [step.weight for step in steps] == [10, 50, 100]
    assert weights(gateway) == {"1": 0, "2": 100}
    assert load.failed == []
