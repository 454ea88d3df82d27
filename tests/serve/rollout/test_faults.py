"""What goes wrong while a version goes up, what its users see, and where it ends: the table of docs/rollout.md.

Each on a real Envoy before real processes, under eight streaming clients. The new engine is started past its
proof, as if it went bad the moment after; the old one is healthy.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rollout_support import clients, lock_of, serve_first, unproven, weights, with_rollout
from serve_support import make_artifact

from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.rollout.steps import roll_out
from weighbridge.errors import RolloutAborted

GIVEN = {"steps": [10, 50, 100], "hold_seconds": 2, "max_hold_seconds": 30}


def note(record_property, load, began, version="2"):
    """Keep what users saw, for the table."""
    record_property("requests", len(load.answers))
    record_property("failed", len(load.failed))
    record_property("of version", dict(load.by_version))
    record_property("seconds", round(time.monotonic() - began, 1))


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
def test_a_new_version_that_goes_bad_is_taken_back(settings, fleet, gateway, record_property, flags, why):
    line, _ = serve_first(settings, fleet, gateway)
    bad = unproven(fleet, settings, **{"delay": 0.05, **flags})
    began = time.monotonic()
    with clients(settings, gateway) as load:
        with lock_of(settings) as lock, pytest.raises(RolloutAborted, match=why):
            roll_out(with_rollout(line, **GIVEN), "2", bad, gateway, lock)
        note(record_property, load, began)
    assert weights(gateway) == {"1": 100, "2": 0}
    assert all(one.version in ("2", "") for one in load.failed)


def test_a_new_engine_that_is_killed_comes_back_or_is_taken_back(settings, fleet, gateway, record_property):
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    began = time.monotonic()
    with clients(settings, gateway) as load:
        with lock_of(settings) as lock:
            kill_when(gateway, "2", 10, lambda: os.kill(fleet.state(new).pid, signal.SIGKILL))
            end = outcome(lambda: roll_out(with_rollout(line, **GIVEN), "2", new, gateway, lock))
        note(record_property, load, began)
    record_property("end", end)
    assert weights(gateway) in ({"1": 0, "2": 100}, {"1": 100, "2": 0})
    assert all(one.version in ("2", "") for one in load.failed)


def test_an_old_engine_that_is_killed_does_not_keep_the_new_one_from_serving(settings, fleet, gateway, record_property):
    line, old = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    began = time.monotonic()
    with clients(settings, gateway) as load:
        with lock_of(settings) as lock:
            kill_when(gateway, "2", 10, lambda: os.kill(fleet.state(old).pid, signal.SIGKILL))
            end = outcome(lambda: roll_out(with_rollout(line, **GIVEN), "2", new, gateway, lock))
        note(record_property, load, began)
    record_property("end", end)
    assert end == ""
    assert weights(gateway) == {"1": 0, "2": 100}


def test_an_envoy_that_is_killed_comes_back_with_the_same_weights_and_the_rollout_goes_on(
    settings, fleet, gateway, record_property
):
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    envoy = Supervisor(settings)
    began = time.monotonic()
    with clients(settings, gateway) as load:
        with lock_of(settings) as lock:
            kill_when(gateway, "2", 10, lambda: os.kill(envoy.state("gateway").pid, signal.SIGKILL))
            end = outcome(lambda: roll_out(with_rollout(line, **GIVEN), "2", new, gateway, lock))
        note(record_property, load, began)
    record_property("end", end)
    assert end == ""
    assert weights(gateway) == {"1": 0, "2": 100}


MOVER = """
import sys
from serve_support import FakeEngine, make_line
from tasks.serve.fleet import local
local.engine = lambda name: FakeEngine()
from rollout_support import lock_of, with_rollout
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.gateway import Gateway
from tasks.serve.rollout.steps import roll_out
from weighbridge.settings import load_settings
settings = load_settings()
line = with_rollout(make_line(delay=0.05), steps=[10, 50, 100], hold_seconds=60, max_hold_seconds=90)
new = next(one for one in LocalFleet(settings).engines("toy") if one.name == sys.argv[1])
with lock_of(settings) as lock:
    roll_out(line, "2", new, Gateway(settings), lock)
"""


def test_a_mover_that_is_killed_leaves_its_weights_and_the_next_goes_on_from_there(
    settings, fleet, gateway, record_property
):
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    here = os.pathsep.join(p for p in sys.path if p)
    began = time.monotonic()
    with clients(settings, gateway) as load:
        mover = subprocess.Popen([sys.executable, "-c", MOVER, new.name], env={**os.environ, "PYTHONPATH": here})
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


def test_where_nothing_can_be_written_the_old_version_serves_on(settings, fleet, gateway, record_property, monkeypatch):
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    began = time.monotonic()
    with clients(settings, gateway) as load:
        while not load.by_version:
            time.sleep(0.05)
        monkeypatch.setattr("tasks.serve.gateway.routes.write_whole", full)
        with lock_of(settings) as lock, pytest.raises(OSError, match="No space"):
            roll_out(with_rollout(line, **GIVEN), "2", new, gateway, lock)
        note(record_property, load, began)
    assert load.failed == []
    assert set(load.by_version) == {"1"}
    assert weights(gateway) == {"1": 100}


def wait_for_weight(gateway, version, weight):
    deadline = time.monotonic() + 60
    while weights(gateway).get(version) != weight:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_when(gateway, version, weight, kill):
    """Kill something a second after a step has begun."""

    def wait():
        wait_for_weight(gateway, version, weight)
        time.sleep(1)
        kill()

    threading.Thread(target=wait, daemon=True).start()


def outcome(roll):
    """What stopped a rollout, or nothing."""
    try:
        roll()
    except RolloutAborted as error:
        return error.what
    return ""
