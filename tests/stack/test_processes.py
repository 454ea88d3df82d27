"""Every process of a real stack that a careless shell started: its environment, its umask, and the files it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
import pytest

from tasks.serve.fleet.supervisor import Supervisor
from tests.support.ports import free_ports
from weighbridge.settings import Settings

# Three servers start, on a machine that is busy with other tests.
pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]
SECRETS = {
    "HF_TOKEN": "canary-hub",
    "AWS_SECRET_ACCESS_KEY": "canary-store",
    "OPENAI_API_KEY": "canary-other",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "canary-admin",
}
ALLOWED = {"worker": {"canary-hub"}}
"""The settings name no object store, so nobody gets its key."""
PORTS = ("GATEWAY_PORT", "MLFLOW_PORT", "PREFECT_PORT", "WEBHOOK_PORT", "ENGINE_PORT_FIRST")


@dataclass
class Stack:
    """A stack, and the shell that starts it at umask 0."""

    home: Path
    environment: dict[str, str]

    def command(self, *arguments: str, **secrets: str) -> str:
        """Run `weighbridge` and return what it printed."""
        program = [str(Path(sys.executable).with_name("weighbridge")), *arguments]
        done = subprocess.run(
            program, env={**self.environment, **secrets}, umask=0, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def services(self) -> dict[str, list[psutil.Process]]:
        """Processes of each service, and supervisord itself."""
        supervisor = Supervisor(Settings(home=self.home))
        found = {"supervisord": [psutil.Process(supervisor.pid)]}
        for state in supervisor.states():
            top = psutil.Process(state.pid)
            found[state.name] = [top, *top.children(recursive=True)]
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    ours = ("WEIGHBRIDGE_", "PREFECT_", "MLFLOW_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    home = tmp_path_factory.mktemp("processes") / "home"
    first = free_ports(100)[0]
    ports = {f"WEIGHBRIDGE_{name}": str(first + number) for number, name in enumerate(PORTS)}
    stack = Stack(home, {**inherited, **ports, "WEIGHBRIDGE_HOME": str(home)})
    try:
        stack.command("up", **SECRETS)
        yield stack
    finally:
        stack.command("down")


def test_no_process_has_a_secret_that_it_does_not_need(stack: Stack) -> None:
    services = stack.services()
    assert services.keys() == {"supervisord", "mlflow", "prefect", "worker", "gateway", "webhook"}
    for name, processes in services.items():
        for process in processes:
            found = set(SECRETS.values()) & set(process.environ().values())
            assert found == ALLOWED.get(name, set()), f"{name}: {' '.join(process.cmdline())[:100]}"


def test_every_process_writes_for_its_user_only(stack: Stack) -> None:
    for name, processes in stack.services().items():
        for process in processes:
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "\nUmask:\t0077\n" in status, f"{name}: {' '.join(process.cmdline())[:100]}"
    assert stack.home.stat().st_mode & 0o777 == 0o700
    open_to_others = [path for path in stack.home.rglob("*") if not path.is_symlink() and path.lstat().st_mode & 0o077]
    assert open_to_others == []


def test_another_up_from_another_shell_restarts_nothing_and_refuses_no_request(stack: Stack) -> None:
    before = {name: processes[0].pid for name, processes in stack.services().items()}
    # Another shell knows the home only, and finds the ports itself.
    other = {"HOME": "/root", "PATH": "/usr/bin:/bin", "WEIGHBRIDGE_HOME": str(stack.home), "VIRTUAL_ENV": "/elsewhere"}
    shell = {"LANG": "C.UTF-8", "HF_TOKEN": "canary-newer", "MY_OWN": "1", "http_proxy": "http://127.0.0.1:9"}
    statuses: list[int] = []
    done = threading.Event()

    def ask() -> None:
        address = f"http://127.0.0.1:{stack.environment['WEIGHBRIDGE_GATEWAY_PORT']}/healthz"
        with httpx.Client(trust_env=False) as client:
            while not done.is_set():
                statuses.append(client.get(address).status_code)
                time.sleep(0.02)

    client = threading.Thread(target=ask)
    client.start()
    try:
        said = replace(stack, environment=other).command("up", **shell)
    finally:
        done.set()
        client.join()
    assert {name: processes[0].pid for name, processes in stack.services().items()} == before
    assert "restarts" not in said and "`weighbridge restart worker` would take it over" in said
    assert "canary-newer" not in said
    assert statuses and set(statuses) == {200}


def test_a_dry_run_says_what_would_be_restarted_and_why(stack: Stack) -> None:
    before = {name: processes[0].pid for name, processes in stack.services().items()}
    said = stack.command("up", "--dry-run", WEIGHBRIDGE_WEIGH_AT_ONCE="2")
    assert "worker  would restart: WEIGHBRIDGE_WEIGH_AT_ONCE 1 → 2" in said and "gateway  runs on" in said
    assert {name: processes[0].pid for name, processes in stack.services().items()} == before


def test_a_service_is_restarted_by_its_name_and_healthy_afterwards(stack: Stack) -> None:
    before = {name: processes[0].pid for name, processes in stack.services().items()}
    said = stack.command("restart", "webhook")
    after = {name: processes[0].pid for name, processes in stack.services().items()}
    assert {name for name in before if after[name] != before[name]} == {"webhook"}
    assert f"webhook  healthy  pid {after['webhook']}" in said


def test_down_leaves_no_secret_on_disk(stack: Stack) -> None:
    # Last: the fixture's own `down` finds nothing.
    stack.command("down")
    holding = [
        path
        for path in stack.home.rglob("*")
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in SECRETS.values())
    ]
    assert holding == []
