from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.serve.fleet.program import Program
from tasks.serve.fleet.supervisor import ProgramState, Supervisor
from tests.support.waiting import wait_for
from weighbridge.errors import StackDown
from weighbridge.settings import load_settings


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor(load_settings())
    supervisor.start({"WEIGHBRIDGE_TEST": "1"})
    yield supervisor
    supervisor.shut_down()


def sleeper(supervisor: Supervisor, name: str = "sleeper", **environment: str) -> Program:
    code = "import os, sys, time; print(os.environ.get('SAY'), flush=True); time.sleep(600)"
    return Program(
        name=name,
        command=(sys.executable, "-c", code),
        environment=environment,
        folder=supervisor.folder,
        log=supervisor.log.with_name(f"{name}.log"),
    )


def running(supervisor: Supervisor, name: str = "sleeper") -> ProgramState | None:
    state = supervisor.state(name)
    return state if state and state.state == "RUNNING" else None


def wait_for_running(supervisor: Supervisor, name: str = "sleeper") -> ProgramState:
    """State of a program, once it runs."""
    wait_for(lambda: running(supervisor, name), seconds=20)
    state = running(supervisor, name)
    assert state is not None
    return state


def test_a_program_runs_with_its_environment_and_outlives_its_parent(supervisor: Supervisor) -> None:
    supervisor.run(sleeper(supervisor, SAY='100% "quoted", yes'))
    assert (supervisor.programs / "sleeper.conf").stat().st_mode & 0o077 == 0, "an environment may hold a key"
    state = wait_for_running(supervisor)
    assert psutil.Process(state.pid).ppid() == supervisor.pid
    log = supervisor.log.with_name("sleeper.log")
    assert wait_for(lambda: log.exists() and log.read_text().strip(), seconds=20) == '100% "quoted", yes'


def test_running_a_program_is_idempotent_and_a_changed_one_replaces_it(supervisor: Supervisor) -> None:
    supervisor.run(sleeper(supervisor, SAY="a"))
    first = wait_for_running(supervisor).pid
    supervisor.run(sleeper(supervisor, SAY="a"))
    assert wait_for_running(supervisor).pid == first
    supervisor.run(sleeper(supervisor, SAY="b"))
    assert wait_for_running(supervisor).pid != first
    assert not psutil.pid_exists(first)


def test_a_killed_program_is_restarted(supervisor: Supervisor) -> None:
    supervisor.run(sleeper(supervisor))
    first = wait_for_running(supervisor).pid
    os.kill(first, signal.SIGKILL)
    assert wait_for(lambda: (state := running(supervisor)) and state.pid != first, seconds=20)


def test_removing_one_leaves_the_others(supervisor: Supervisor) -> None:
    supervisor.run(sleeper(supervisor, "one"))
    supervisor.run(sleeper(supervisor, "two"))
    kept = wait_for_running(supervisor, "two").pid
    supervisor.remove("one")
    supervisor.remove("one")
    assert supervisor.state("one") is None
    assert wait_for_running(supervisor, "two").pid == kept


def test_programs_are_restarted_after_supervisord_is_killed(supervisor: Supervisor) -> None:
    supervisor.run(sleeper(supervisor))
    wait_for(lambda: running(supervisor), seconds=20)
    supervisor.shut_down()
    assert supervisor.pid is None
    supervisor.start({})
    assert wait_for(lambda: running(supervisor), seconds=20)


def test_start_is_idempotent(supervisor: Supervisor) -> None:
    pid = supervisor.pid
    supervisor.start({})
    assert supervisor.pid == pid


def test_the_socket_is_private(supervisor: Supervisor) -> None:
    assert supervisor.socket.stat().st_mode & 0o077 == 0


def test_without_supervisord_the_error_says_what_to_do() -> None:
    with pytest.raises(StackDown, match="weighbridge up"):
        Supervisor(load_settings()).states()


@pytest.mark.server
def test_supervisord_has_nothing_of_the_shell_that_a_program_may_not_have(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    supervisor = Supervisor(load_settings())
    supervisor.start({})
    try:
        supervisor.run(sleeper(supervisor))
        pid = wait_for_running(supervisor).pid
        for process in (psutil.Process(supervisor.pid), psutil.Process(pid)):
            assert "canary" not in process.environ().values() and process.environ()["CUDA_VISIBLE_DEVICES"] == "1"
        assert supervisor.inherited_names() == []
        umask = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Umask"))
        assert umask.split()[1] == "0077"
    finally:
        supervisor.shut_down()


@pytest.mark.server
def test_a_program_below_an_old_supervisord_gets_the_shells_secrets_empty(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(load_settings())
    # As an older Weighbridge started it: with everything.
    supervisor.start({"AWS_SECRET_ACCESS_KEY": "canary", "WEIGHBRIDGE_SIGNING_KEY": "/a/path", "MINE": "yes"})
    try:
        assert supervisor.inherited_names() == ["AWS_SECRET_ACCESS_KEY", "MINE"]
        supervisor.run(sleeper(supervisor, MINE="given"))
        environment = psutil.Process(wait_for_running(supervisor).pid).environ()
        assert environment["AWS_SECRET_ACCESS_KEY"] == "" and environment["MINE"] == "given"
        assert environment["WEIGHBRIDGE_SIGNING_KEY"] == "/a/path"
    finally:
        supervisor.shut_down()
