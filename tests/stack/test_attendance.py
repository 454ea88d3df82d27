"""`status` says whether somebody watches a rollout: real processes that hold the lock, are killed, or are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli import silence
from cli.serving import _require_worker
from cli.silence import Silence
from stack import lifecycle
from stack.attendance import rollout_status
from stack.worker_life import WorkerLife, is_stopped, worker_life, worker_notes
from tasks.serve.endpoint import Endpoint
from tasks.serve.fleet.program import Program
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Backend, Gateway, LineRoute
from tasks.serve.installation import ServingInstallation
from tasks.serve.rollout.lock import TrafficLock
from tests.support.waiting import wait_for
from weighbridge.errors import StackDown
from weighbridge.settings import Settings, load_settings

HOLDER = """
import time
from tasks.serve.rollout.lock import TrafficLock
from weighbridge.settings import load_settings
with TrafficLock(load_settings(), "toy").acquire(1, run="run-1"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def settings(own_home: Path) -> Settings:
    return load_settings()


@contextmanager
def holder() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def route(settings: Settings, **weights: int) -> LineRoute:
    backends = [
        Backend(
            version=version.removeprefix("v"),
            digest="a" * 64,
            engine=f"toy-{version}",
            endpoints=(Endpoint(host="127.0.0.1", port=1000 + weight),),
            weight=weight,
        )
        for version, weight in weights.items()
    ]
    Gateway(settings).set_line("toy", backends, wait=False)
    return Gateway(settings).routes().line("toy")


def test_a_line_whose_traffic_is_not_split_has_no_rollout(settings: Settings) -> None:
    assert rollout_status(settings, route(settings, v1=100, v2=0), rolling=False) is None


def test_a_split_line_without_any_record_is_unattended_since_an_unknown_time(settings: Settings) -> None:
    found = rollout_status(settings, route(settings, v1=75, v2=25), rolling=False)
    assert found is not None and (found.state, found.since) == ("unattended", None)
    assert found.sentence == (
        "toy: rolling, unattended (version 1 has 75 %, version 2 has 25 %). `weighbridge promote toy` goes on, "
        "`weighbridge rollback toy` goes back."
    )


def test_a_version_that_rolls_is_unattended_too_where_one_version_has_everything(settings: Settings) -> None:
    found = rollout_status(settings, route(settings, v2=100), rolling=True)
    assert found is not None and found.state == "unattended"


def test_a_rollout_is_attended_frozen_and_unattended_as_its_process_is(settings: Settings) -> None:
    split = route(settings, v1=75, v2=25)
    with holder() as process:
        found = rollout_status(settings, split, rolling=True)
        assert found is not None
        assert (found.state, found.pid, found.run, found.sentence) == ("attended", process.pid, "run-1", "")
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: (now := rollout_status(settings, split, rolling=True)) and now.state == "frozen", seconds=10)
        found = rollout_status(settings, split, rolling=True)
        assert found is not None and f"kill -CONT {process.pid}" in found.sentence and is_stopped(process.pid)
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: (now := rollout_status(settings, split, rolling=True)) and now.state == "attended", seconds=10)
        process.kill()
        process.wait()
        found = rollout_status(settings, split, rolling=True)
    assert found is not None and found.state == "unattended" and found.since is not None
    assert datetime.now(UTC) - found.since < timedelta(seconds=30)
    assert f"unattended since {found.since:%H:%M} UTC" in found.sentence
    assert found.model_dump()["since"] == found.since


def test_a_rollout_that_ended_in_order_and_left_the_line_split_is_unattended_since_then(settings: Settings) -> None:
    split = route(settings, v1=75, v2=25)
    with TrafficLock(settings, "toy").acquire(1):
        found = rollout_status(settings, split, rolling=True)
        assert found is not None and found.state == "attended"
    found = rollout_status(settings, split, rolling=True)
    assert found is not None and found.state == "unattended" and found.since is not None
    assert time.time() - found.since.timestamp() < 10


def test_a_frozen_worker_takes_no_runs_and_says_what_helps() -> None:
    frozen = WorkerLife(state="frozen", pid=7, heard_seconds=130)
    assert not frozen.takes_runs
    assert frozen.sentence == "its process 7 is stopped; its last heartbeat was 2 min ago"
    assert "kill -CONT 7" in frozen.next_step and "weighbridge restart worker" in frozen.next_step
    assert WorkerLife(state="healthy", pid=7).takes_runs and not WorkerLife(state="down").takes_runs


@pytest.mark.server
def test_a_worker_whose_process_is_stopped_is_frozen_and_promote_offers_to_do_without(settings: Settings) -> None:
    supervisor = Supervisor(settings)
    supervisor.start({})
    try:
        assert worker_life(settings).state == "down"
        program = Program(
            name="worker", command=("sleep", "600"), folder=settings.home, log=settings.home / "logs" / "worker.log"
        )
        supervisor.run(program)
        wait_for(lambda: supervisor.state("worker"), seconds=10)
        state = supervisor.state("worker")
        assert state and state.pid
        pid = state.pid
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(pid), seconds=10)
        life = worker_life(settings)
        assert (life.state, life.pid) == ("frozen", pid)
        [sentence] = worker_notes(settings)
        assert sentence.startswith(f"worker: its process {pid} is stopped, so no run begins.")
        row = next(row for row in lifecycle.status(settings) if row.name == "worker")
        assert row.state == "frozen"
        with pytest.raises(StackDown) as refused:
            _require_worker(ServingInstallation(settings), "promote", {"line": "toy", "version": None})
        assert "`weighbridge promote toy --here`" in refused.value.next_step
        os.kill(pid, signal.SIGCONT)
    finally:
        supervisor.shut_down()


def test_who_follows_a_run_hears_once_that_its_process_is_frozen_or_that_no_worker_begins_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "LOOK_SECONDS", 0.0)
    follows = Silence(settings, "promote", "toy")
    assert follows.explain(begun=False, queued=False) == "", "a worker takes some seconds"
    monkeypatch.setattr(silence, "BEGIN_SECONDS", 0.0)
    assert follows.explain(begun=False, queued=True) == "", "it waits for another run"
    assert follows.explain(begun=False, queued=False) == (
        "The worker does not begin it: it is down. Run `weighbridge up`."
    )
    assert follows.explain(begun=False, queued=False) == ""
    with holder() as process:
        assert follows.explain(begun=True, queued=False) == ""
        process.send_signal(signal.SIGSTOP)
        said = wait_for(lambda: follows.explain(begun=True, queued=False), seconds=15)
        assert f"Process {process.pid}" in said and "`weighbridge rollback toy` takes over" in said
        assert follows.explain(begun=True, queued=False) == ""
