"""Rollouts on a real Envoy before fake engines, under continuous client load."""

from __future__ import annotations

import threading
import time
from functools import partial

import psutil
import pytest

from tasks.serve.fleet.local import LocalFleet
from tasks.serve.gateway import Gateway
from tasks.serve.rollout import canary_step
from tasks.serve.rollout.canary import roll_out, switch
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.retire import retire
from tests.serve.rollout.rollout_support import clients, lock_of, serve_first, unproven, weights, with_rollout
from tests.serve.serve_support import FakeEngine, make_artifact, make_line
from weighbridge.errors import RolloutAborted, RolloutBusy
from weighbridge.settings import Settings


def test_the_first_version_gets_all_traffic(settings: Settings, fleet: LocalFleet, gateway: Gateway) -> None:
    serve_first(settings, fleet, gateway)
    assert weights(gateway) == {"1": 100}


def test_the_line_s_stickiness_reaches_the_gateway(settings: Settings, fleet: LocalFleet, gateway: Gateway) -> None:
    line, old = serve_first(settings, fleet, gateway)
    with lock_of(settings) as lock:
        roll_out(with_rollout(line, sticky_by="conversation"), "1", old, gateway, lock)
    assert gateway.routes().line("toy").sticky_by == "conversation"
    assert weights(gateway) == {"1": 100}


def test_no_request_fails_during_promotion_and_rollback(
    settings: Settings, fleet: LocalFleet, gateway: Gateway
) -> None:
    line, old = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    with clients(settings, gateway) as load, lock_of(settings) as lock:
        steps = roll_out(line, "2", new, gateway, lock)
        assert weights(gateway) == {"1": 0, "2": 100}
        time.sleep(1)
        switch("toy", "1", old, gateway)
        switched = time.time()
        time.sleep(1)
        fleet.mark_rotation(new, serves=False)
        retire(with_rollout(line, keep_warm_minutes=0), gateway, fleet)
    assert load.failed == []
    assert [step.weight for step in steps] == [10, 50, 100]
    assert load.by_version["1"] > 0
    assert load.by_version["2"] > 0
    assert load.last_start("2", switched) is None
    assert weights(gateway) == {"1": 100}
    assert fleet.engines("toy") == [old]


def test_a_version_that_fails_requests_is_rolled_back(settings: Settings, fleet: LocalFleet, gateway: Gateway) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    broken = unproven(fleet, settings, status=500)
    slow = with_rollout(line, hold_seconds=30, max_hold_seconds=60)
    with clients(settings, gateway), lock_of(settings) as lock, pytest.raises(RolloutAborted, match="errors 100"):
        roll_out(slow, "2", broken, gateway, lock)
    assert weights(gateway) == {"1": 100, "2": 0}


@pytest.mark.parametrize("how", ["dies", "freezes"])
def test_an_engine_that_dies_or_freezes_aborts_the_rollout(
    how: str, settings: Settings, fleet: LocalFleet, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    monkeypatch.setattr(canary_step, "UNHEALTHY_SECONDS", 3.0)
    slow = with_rollout(line, hold_seconds=60, max_hold_seconds=90)
    state = fleet.state(new)
    assert state is not None
    process = psutil.Process(state.pid)
    with lock_of(settings) as lock:
        threading.Timer(1, process.suspend if how == "freezes" else partial(fleet._supervisor.remove, new.name)).start()
        with pytest.raises(RolloutAborted, match="health check"):
            roll_out(slow, "2", new, gateway, lock)
    assert weights(gateway) == {"1": 100, "2": 0}
    if how == "freezes":
        process.resume()


def test_a_killed_rollout_resumes_at_its_weight(settings: Settings, fleet: LocalFleet, gateway: Gateway) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    with lock_of(settings) as lock:
        roll_out(line, "2", new, gateway, lock)
        gateway.shift("toy", {"1": 50, "2": 50})
        assert [step.weight for step in roll_out(line, "2", new, gateway, lock)] == [50, 100]
    assert weights(gateway) == {"1": 0, "2": 100}


def test_a_rollback_interrupts_a_rollout(settings: Settings, fleet: LocalFleet, gateway: Gateway) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    slow = with_rollout(line, hold_seconds=60, max_hold_seconds=90)
    ended = []

    def rolling() -> None:
        try:
            with lock_of(settings) as lock:
                roll_out(slow, "2", new, gateway, lock)
        except RolloutAborted as error:
            ended.append(error)

    thread = threading.Thread(target=rolling)
    thread.start()
    time.sleep(1)
    with TrafficLock(settings, "toy").acquire(30, urgent=True):
        assert weights(gateway) == {"1": 100, "2": 0}
    thread.join()
    assert "rollback" in ended[0].what


def test_a_second_rollout_of_a_line_is_refused(settings: Settings) -> None:
    with lock_of(settings), pytest.raises(RolloutBusy, match="toy"):
        TrafficLock(settings, "toy").acquire(0.2)
    with lock_of(settings):
        pass


def test_the_previous_engine_stays_warm(settings: Settings, fleet: LocalFleet, gateway: Gateway) -> None:
    line, old = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    with lock_of(settings) as lock:
        roll_out(line, "2", new, gateway, lock)
    fleet.mark_rotation(old, serves=False)
    retire(line, gateway, fleet)
    assert fleet.is_warm(old)
    assert weights(gateway) == {"1": 0, "2": 100}


def test_a_version_is_checked_at_its_own_engine(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_first(settings, fleet, gateway)
    monkeypatch.setattr(FakeEngine, "health_path", lambda self, plan: "/v1/models")
    line = make_line(delay=0.01)
    moved = fleet.ensure(line, make_artifact(settings, "old"))
    with lock_of(settings) as lock:
        roll_out(line, "1", moved, gateway, lock)
    (backend,) = gateway.routes().line("toy").backends
    assert (backend.engine, backend.endpoints) == (moved.name, moved.endpoints)
    assert (backend.health_path, backend.weight) == ("/v1/models", 100)
