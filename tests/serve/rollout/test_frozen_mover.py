"""A mover of traffic that is stopped: a rollback takes its line over within seconds, and it stops when it wakes.

Real processes and signals before a real Envoy; the stop is SIGSTOP, as a suspended terminal or a frozen container
sends it, and a sleeping machine looks from within.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tasks.serve.fleet.local import LocalFleet
from tasks.serve.gateway import Gateway
from tasks.serve.gateway.routes import RoutesFile
from tasks.serve.rollout import canary_step, rollback
from tasks.serve.rollout import lock as lock_module
from tasks.serve.rollout.holder import read_holder
from tasks.serve.rollout.lock import TrafficLock, require_held
from tests.serve.rollout.conftest import Promoted
from tests.serve.rollout.rollout_support import clients, start_mover, wait_for_weight, weights
from tests.serve.serve_support import make_artifact
from tests.support.waiting import wait_for
from weighbridge.errors import RolloutBusy, TrafficTakenOver
from weighbridge.settings import Settings

HOLDER = """
import sys, time
from tasks.serve.rollout.lock import TrafficLock
from weighbridge.settings import load_settings
with TrafficLock(load_settings(), "toy").acquire(1, run="run-1") as lock:
    print("held", flush=True)
    while True:
        lock.require_held()
        time.sleep(0.1)
"""
WRITER = """
import time
from tasks.serve.gateway.routes import RoutesFile
from tasks.serve.rollout.lock import TrafficLock
from weighbridge.settings import load_settings
settings = load_settings()
with TrafficLock(settings, "toy").acquire(1), RoutesFile(settings.home / "gateway").writing():
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def running(program: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the line's lock."""
    here = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": here}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def stop(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, seconds=10)


def test_a_stopped_holder_loses_the_lock_to_a_rollback_and_ends_when_it_wakes(settings: Settings) -> None:
    told: list[str] = []
    with running(HOLDER) as process:
        stop(process)
        began = time.monotonic()
        with TrafficLock(settings, "toy").acquire(60, urgent=True, report=told.append) as taken:
            assert time.monotonic() - began < 5
            taken.require_held()
            process.send_signal(signal.SIGCONT)
            _, error = process.communicate(timeout=30)
            assert process.returncode == 1 and "TrafficTakenOver" in error
            # What it did on its way out concerns nobody.
            taken.require_held()
            require_held(settings, "toy")
            with pytest.raises(RolloutBusy):
                TrafficLock(settings, "toy").acquire(0.5)
    assert len(told) == 1 and f"process {process.pid}" in told[0]
    with TrafficLock(settings, "toy").acquire(1):
        pass


def test_a_holder_that_runs_keeps_the_lock_however_urgent(settings: Settings) -> None:
    with running(HOLDER) as process:
        with pytest.raises(RolloutBusy):
            TrafficLock(settings, "toy").acquire(3, urgent=True)
        assert process.poll() is None


def test_a_promotion_leaves_a_holder_that_was_stopped_a_moment_ago_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(HOLDER) as process:
        stop(process)
        with pytest.raises(RolloutBusy):
            TrafficLock(settings, "toy").acquire(2)
        monkeypatch.setattr(lock_module, "SILENCE_SECONDS", 1.0)
        with TrafficLock(settings, "toy").acquire(20):
            pass


def test_a_holder_that_froze_while_it_wrote_the_routes_is_killed(settings: Settings) -> None:
    told: list[str] = []
    with running(WRITER) as process:
        stop(process)
        with TrafficLock(settings, "toy").acquire(60, urgent=True, report=told.append):
            assert process.wait(10) == -signal.SIGKILL
    assert "killed" in told[-1]


def test_the_record_tells_a_holder_that_runs_from_one_that_is_frozen_or_gone(settings: Settings) -> None:
    assert read_holder(settings, "toy") is None
    with running(HOLDER) as process:
        holder = read_holder(settings, "toy")
        assert holder is not None
        assert (holder.pid, holder.run, holder.moves_traffic, holder.is_frozen()) == (process.pid, "run-1", True, False)
        stop(process)
        wait_for(lambda: (found := read_holder(settings, "toy")) and found.is_frozen(), seconds=10)
    holder = read_holder(settings, "toy")
    assert holder is not None and holder.held and not holder.moves_traffic, "killed: it could not say that it ended"
    with TrafficLock(settings, "toy").acquire(1):
        wait_for(lambda: (found := read_holder(settings, "toy")) and found.silent_seconds < 1, seconds=5)
    holder = read_holder(settings, "toy")
    assert holder is not None and not holder.held and holder.silent_seconds < 5


def test_without_room_on_the_disk_nothing_is_noted_and_the_lock_works(settings: Settings, own_home: Path) -> None:
    record = settings.home / "gateway" / "toy.traffic.json"
    record.mkdir(parents=True)
    with TrafficLock(settings, "toy").acquire(1) as lock:
        assert read_holder(settings, "toy") is None
        lock.require_held()
        with pytest.raises(RolloutBusy):
            TrafficLock(settings, "toy").acquire(0.3, urgent=True)


@pytest.mark.server
def test_a_rollback_while_the_rollout_is_stopped_moves_traffic_and_the_woken_rollout_moves_none(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, promoted: Promoted
) -> None:
    line, _, _ = promoted
    rollback.note_served(settings, "toy", 1, None)
    gateway.shift("toy", {"1": 100})
    new = fleet.ensure(line, make_artifact(settings, "new"))
    mover = start_mover(new)
    try:
        wait_for_weight(gateway, "2", 10)
        with RoutesFile(gateway.folder).writing():
            """The routes are rendered, and the rollout holds its step."""
        with clients(settings, gateway) as load:
            stop(mover)
            began = time.monotonic()
            assert rollback.switch_warm(settings, "toy", None, "it stutters") == 1
            assert time.monotonic() - began < 10
            assert weights(gateway) == {"1": 100, "2": 0}
            mover.send_signal(signal.SIGCONT)
            assert mover.wait(30) == 1
            time.sleep(1)
        assert weights(gateway) == {"1": 100, "2": 0}
        assert load.failed == []
    finally:
        mover.kill()


@pytest.mark.server
def test_time_in_which_a_rollout_was_frozen_does_not_count_against_its_engine(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, promoted: Promoted
) -> None:
    """After a sleep everything wakes at once, and Envoy may look at the engine later than the rollout does."""
    line, _, _ = promoted
    gateway.shift("toy", {"1": 100})
    new = fleet.ensure(line, make_artifact(settings, "new"))
    mover = start_mover(new)
    try:
        wait_for_weight(gateway, "2", 10)
        with RoutesFile(gateway.folder).writing():
            """The rollout holds its step."""
        time.sleep(1)
        stop(mover)
        fleet._supervisor.remove(new.name)
        wait_for(lambda: not gateway.counters("toy", "2").healthy, seconds=60)
        time.sleep(canary_step.UNHEALTHY_SECONDS)
        mover.send_signal(signal.SIGCONT)
        time.sleep(3)
        assert mover.poll() is None and weights(gateway) == {"1": 90, "2": 10}
        # Down for long while the rollout looks on is down.
        wait_for(lambda: weights(gateway) == {"1": 100, "2": 0}, seconds=60)
    finally:
        mover.kill()


def test_a_woken_mover_records_nothing_in_the_registry(installation: object, settings: Settings) -> None:
    from tasks.serve.serving_record import record_serving, retire_engines
    from tests.serve.serve_support import make_line

    lock = TrafficLock(settings, "toy").acquire(1)
    # As another process does that takes over.
    (settings.home / "gateway" / "toy.traffic.lock").unlink()
    registry = installation.registry  # type: ignore[attr-defined]
    with lock:
        for record in (
            lambda: record_serving(installation, make_line(), registry.version("toy", 1)),  # type: ignore[arg-type]
            lambda: retire_engines(installation, make_line()),  # type: ignore[arg-type]
        ):
            with pytest.raises(TrafficTakenOver):
                record()
    assert registry.production("toy").version == 2
