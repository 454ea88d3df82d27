"""Faults of machine, disk and keys during a rollout: more of docs/evidence/rollout.md's table.

As in test_faults.py: a real Envoy and real processes under eight streaming clients.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from examples.load import Answer, Load
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway, access_log
from tasks.serve.rollout import rollback
from tasks.serve.rollout.canary import roll_out
from tests.serve.rollout.rollout_support import (
    GIVEN,
    clients,
    lock_of,
    note,
    outcome,
    serve_first,
    start_mover,
    wait_for_weight,
    weights,
    with_rollout,
)
from tests.serve.serve_support import make_artifact
from tests.support.waiting import wait_for
from weighbridge.errors import DiskFull
from weighbridge.settings import Settings

# A restarted machine starts all services at once.
pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
QUICK = {**GIVEN, "max_hold_seconds": 12}


def test_a_restarted_machine_recovers_its_weights_and_the_rollout_finishes(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    began = time.monotonic()
    with clients(settings, gateway) as load:
        mover = start_mover(new)
        wait_for_weight(gateway, "2", 10)
        # Kill everything at once, as in a power failure.
        top = psutil.Process(Supervisor(settings).pid)
        everything = [top, *top.children(recursive=True), psutil.Process(mover.pid)]
        for process in everything:
            process.send_signal(signal.SIGKILL)
        mover.wait()
        psutil.wait_procs(everything, timeout=20)
        wait_for(lambda: load.failed, seconds=60)
        gateway.bootstrap()
        Supervisor(settings).start({})
        for engine in fleet.engines("toy"):
            fleet.warm_up(engine)
        wait_for(gateway.health, seconds=60)
        wait_for(lambda: all(gateway.counters("toy", version).healthy for version in ("1", "2")), seconds=60)
        record_property("seconds to all of it", round(time.monotonic() - began, 1))
        assert weights(gateway) == {"1": 90, "2": 10}
        # Requests sent a moment ago may still get a 503.
        time.sleep(1)
        answered, failed = len(load.answers), len(load.failed)
        wait_for(lambda: len(load.answers) > answered + 20, seconds=60)
        with lock_of(settings) as lock:
            steps = roll_out(with_rollout(line, **QUICK), "2", new, gateway, lock)
        note(record_property, load, began)
        record_property("seconds of failures", span(load.failed))
    assert [step.weight for step in steps] == [10, 50, 100]
    assert weights(gateway) == {"1": 0, "2": 100}
    assert load.failed[failed:] == []


def test_a_key_that_expires_during_a_rollout_is_no_error_of_the_version(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    began = time.monotonic()
    ends = datetime.now(UTC) + timedelta(seconds=5)
    guest = Load(f"{settings.gateway_url}/v1", gateway.add_key("guest", ends), "toy", clients=4)
    with clients(settings, gateway) as load, guest:
        with lock_of(settings) as lock:
            steps = roll_out(with_rollout(line, **{**GIVEN, "hold_seconds": 4}), "2", new, gateway, lock)
        note(record_property, load, began)
        record_property("guest's", f"{len(guest.answers)} requests, {len(guest.failed)} refused")
    assert weights(gateway) == {"1": 0, "2": 100}
    assert load.failed == []
    assert guest.by_version, "the key worked before it expired"
    assert {answer.problem[:10] for answer in guest.failed} == {"status 401"}
    # Both clocks are this machine's; Envoy compares whole seconds.
    assert min(answer.started for answer in guest.failed) > ends.timestamp() - 1
    assert max(answer.started for answer in guest.answers if not answer.problem) < ends.timestamp() + 1
    assert len(guest.failed) > 4, "the key expired during the rollout"
    assert sum(step.errors for step in steps) == 0
    for step in steps:
        [errors] = [signal for signal in step.signals if signal.name == "errors"]
        assert errors.candidate == 0
        assert not errors.production


@pytest.fixture
def disk(own_home: Path) -> Iterator[Path]:
    """A home on a separate disk of 24 MiB; skipped if this user may not mount one."""
    if shutil.which("mount") is None:
        pytest.skip("a disk that can be filled needs `mount`")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(own_home)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a disk that can be filled needs the right to mount one: {done.stderr.strip()}")
    yield own_home
    subprocess.run(["umount", "--lazy", str(own_home)], check=True)


def fill(disk: Path) -> Path:
    """Fill the disk; return the file that fills it."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    assert os.statvfs(disk).f_bavail == 0
    return ballast


def test_a_full_disk_stops_promotions_and_production_keeps_serving(
    disk: Path, settings: Settings, fleet: LocalFleet, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    began = time.monotonic()
    with clients(settings, gateway) as load:
        wait_for(lambda: load.by_version, seconds=60)
        ballast = fill(disk)
        with lock_of(settings) as lock, pytest.raises(DiskFull, match="became full"):
            roll_out(with_rollout(line, **QUICK), "2", new, gateway, lock)
        note(record_property, load, began)
        assert load.failed == []
        assert set(load.by_version) == {"1"}
        assert weights(gateway)["1"] == 100
        ballast.unlink()
        with lock_of(settings) as lock:
            roll_out(with_rollout(line, **QUICK), "2", new, gateway, lock)
    assert load.failed == []
    assert weights(gateway) == {"1": 0, "2": 100}


def test_a_disk_that_fills_up_at_10_per_cent_rolls_back(
    disk: Path, settings: Settings, fleet: LocalFleet, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    began = time.monotonic()
    with clients(settings, gateway) as load:
        wait_for(lambda: load.by_version, seconds=60)
        slow = with_rollout(line, **{**GIVEN, "hold_seconds": 6, "max_hold_seconds": 10})
        filled = []
        with lock_of(settings) as lock:
            # Before the step's first request can have ended: the log has none.
            end = outcome(lambda: roll_out(slow, "2", new, gateway, lock, lambda _: filled.append(fill(disk))))
        note(record_property, load, began)
        record_property("end", end)
        assert weights(gateway) == {"1": 100, "2": 0}
        filled[0].unlink()
        log = access_log(settings)
        size = log.stat().st_size
        wait_for(lambda: log.stat().st_size > size, seconds=60)
    assert "access log" in end
    assert load.failed == []


def test_a_rollback_succeeds_on_a_full_disk(
    disk: Path, settings: Settings, fleet: LocalFleet, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    line, _ = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    with clients(settings, gateway) as load:
        wait_for(lambda: load.by_version, seconds=60)
        with lock_of(settings) as lock:
            roll_out(with_rollout(line, **QUICK), "2", new, gateway, lock)
        rollback.note_served(settings, "toy", 2, 1)
        began = time.monotonic()
        fill(disk)
        assert rollback.switch_warm(settings, "toy", None, "it stutters") == 1
        switched = time.time()
        record_property("seconds", round(time.monotonic() - began, 1))
        wait_for(
            lambda: any(answer.version == "1" and answer.started > switched for answer in load.answers), seconds=60
        )
    assert weights(gateway) == {"1": 100, "2": 0}
    assert load.last_start("2", switched) is None
    assert load.failed == []
    assert rollback.pending(settings, "toy") == rollback.PendingRollback(to=1, reason="it stutters")


def span(failed: Sequence[Answer]) -> float:
    """Seconds from the first failed request to the last."""
    started = [answer.started for answer in failed]
    return round(max(started) - min(started), 1) if started else 0
