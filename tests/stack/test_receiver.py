"""The receiver as a process beside a real MLflow server; Prefect is a recorded stand-in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from registry.models.registry import Registry
from registry.webhooks import DELIVERY, SIGNATURE, TIMESTAMP, Keys, _signature
from tests.support.mlflow_server import MlflowServer
from tests.support.ports import free_port
from tests.support.recorded_prefect import RecordedPrefect
from tests.support.waiting import wait_for
from weighbridge.health import answers
from weighbridge.home import project_root

pytestmark = [pytest.mark.server, pytest.mark.timeout(400)]
LINES = ("clicked-line", "unscheduled-line")


@dataclass
class Stack:
    """MLflow, the receiver, and a stand-in for Prefect that records flow runs."""

    home: Path
    registry: Registry
    prefect: RecordedPrefect
    port: int
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.home / "receiver.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mlflow"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stack.receiver"], stdout=log, stderr=log, env=dict(os.environ)
            )
        wait_for(lambda: answers(f"http://127.0.0.1:{self.port}/health"), self.log.read_text, seconds=90)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def approve(self, line: str = LINES[0]) -> None:
        """Create a version of a line's model, without a verdict."""
        self.registry.client.create_model_version(line, source=f"store://{line}/{'0' * 64}")

    def runs(self) -> int:
        return len(self.prefect.asked(f"promote/{LINES[0]}"))

    def deliver(
        self, identity: str, *, at: float | None = None, secret: str | None = None, padding: int = 0
    ) -> httpx.Response:
        """Send a delivery as MLflow does."""
        data = {"name": LINES[0], "version": "1", "description": "x" * padding}
        body = json.dumps({"entity": "model_version", "action": "created", "data": data}).encode()
        stamp = str(int(time.time() if at is None else at))
        signature = _signature(secret or Keys(self.home / "webhook").secret, identity, stamp, body)
        headers = {DELIVERY: identity, TIMESTAMP: stamp, SIGNATURE: signature}
        return httpx.post(self.url, content=body, headers=headers, trust_env=False, timeout=20)


@pytest.fixture
def stack(
    mlflow_server: MlflowServer, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    (tmp_path / "lines").mkdir()
    text = (project_root() / "lines" / "smollm2.yaml").read_text()
    for line in LINES:
        (tmp_path / "lines" / f"{line}.yaml").write_text(text)
    prefect = RecordedPrefect({f"promote/{LINES[0]}": True, f"promote/{LINES[1]}": False})
    port = free_port()
    for name, value in {
        "ROOT": str(tmp_path),
        "MLFLOW_PORT": mlflow_server.url.rpartition(":")[2],
        "PREFECT_PORT": str(prefect.port),
        "WEBHOOK_PORT": str(port),
    }.items():
        monkeypatch.setenv(f"WEIGHBRIDGE_{name}", value)
    monkeypatch.setenv("PYTHONPATH", str(project_root()))
    stack = Stack(own_home, Registry(mlflow_server.url), prefect, port)
    for line in LINES:
        stack.registry.ensure_line(line)
    stack.start()
    # Here MLflow refreshes its list of webhooks each second.
    time.sleep(1.1)
    yield stack
    stack.stop()
    prefect.close()


def test_only_an_approval_or_a_moved_alias_starts_promote(stack: Stack) -> None:
    stack.approve()
    wait_for(lambda: stack.runs() == 1, stack.log.read_text, seconds=90)
    client, line = stack.registry.client, LINES[0]
    client.set_model_version_tag(line, "1", "weighbridge.state", "refused")
    client.set_registered_model_alias(line, "previous", "1")
    client.create_model_version(f"{line}-candidates", source=f"store://{line}/{'0' * 64}")
    stack.approve(LINES[1])
    client.set_registered_model_alias(line, "production", "1")
    wait_for(lambda: stack.runs() == 2, stack.log.read_text, seconds=90)
    unscheduled = f"promote/{LINES[1]}"
    wait_for(lambda: stack.prefect.asked(unscheduled), stack.log.read_text, seconds=90)
    time.sleep(1)
    assert len(stack.prefect.runs) == 3, "a click counts, whether or not the schedule is active"
    assert {tuple(run["parameters"]) for run in stack.prefect.runs.values()} == {()}


def test_a_lost_delivery_leaves_the_approval_to_the_next_poll(stack: Stack, mlflow_server: MlflowServer) -> None:
    stack.stop()
    given_up = f"Failed to send webhook to {stack.url}"
    stack.approve()
    # MLflow retries three times within about ten seconds, then drops the delivery.
    wait_for(lambda: given_up in mlflow_server.log.read_text(), mlflow_server.log.read_text, seconds=90)
    stack.start()
    time.sleep(2)
    assert stack.runs() == 0, "a dropped delivery starts no run"
    from tasks.serve import settled
    from tasks.serve.installation import ServingInstallation
    from weighbridge.line import Line

    requested = settled.requested_version(ServingInstallation.load(), Line.load(LINES[0]), None)
    assert requested is not None and requested.state is None, "the scheduled reconciler finds the approval"
    stack.approve()
    wait_for(lambda: stack.runs() == 1, stack.log.read_text, seconds=90)


def test_a_repeated_delivery_starts_one_run_even_after_a_restart(stack: Stack) -> None:
    assert stack.deliver("d1").status_code == 202
    assert stack.deliver("d1").status_code == 200
    stack.stop()
    stack.start()
    answer = stack.deliver("d1")
    assert answer.status_code == 200 and "already" in answer.json()["said"]
    assert stack.runs() == 1


def test_forged_and_replayed_deliveries_start_nothing(stack: Stack) -> None:
    assert stack.deliver("d1", secret="guessed").status_code == 401
    replayed = stack.deliver("d2", at=time.time() - 3600)
    assert replayed.status_code == 401 and "stale" in replayed.json()["said"]
    assert httpx.post(stack.url, json={"entity": "model_version"}, trust_env=False).status_code == 401
    assert httpx.post(stack.url, content=b"x" * 1_000_001, trust_env=False).status_code == 401
    assert stack.deliver("d3", padding=1_000_001).status_code == 413
    assert stack.prefect.runs == {}
    secret = Keys(stack.home / "webhook").secret
    assert secret not in stack.log.read_text()


def test_while_prefect_is_down_mlflow_gets_a_retryable_status(stack: Stack) -> None:
    stack.prefect.broken = True
    assert stack.deliver("d1").status_code == 503
    stack.approve()
    wait_for(lambda: stack.log.read_text().count(" 503 ") >= 2, stack.log.read_text, seconds=90)
    stack.prefect.broken = False
    wait_for(lambda: stack.runs() == 1, stack.log.read_text, seconds=90)
    assert stack.deliver("d1").status_code == 202


def test_a_request_that_cannot_be_a_delivery_is_answered_before_its_body(stack: Stack) -> None:
    """An endless body is announced, and never sent."""
    fresh, shape = str(int(time.time())), f"v1,{'A' * 43}="
    for headers in (
        {},
        {SIGNATURE: shape, TIMESTAMP: fresh},
        {SIGNATURE: "v1,short", TIMESTAMP: fresh, DELIVERY: "d"},
        {SIGNATURE: shape, TIMESTAMP: "9" * 5000, DELIVERY: "d"},
        {SIGNATURE: shape, TIMESTAMP: fresh, DELIVERY: "d.1"},
    ):
        assert status_of(stack, {**headers, "Content-Length": "900000"}, seconds=5) == 401
    whole = {SIGNATURE: shape, TIMESTAMP: fresh, DELIVERY: "d", "Content-Length": "999999999"}
    assert status_of(stack, whole, seconds=5) == 413


def test_a_page_of_another_site_and_a_rebound_name_are_refused(stack: Stack) -> None:
    for headers, status in (({"Origin": "https://evil.example"}, 403), ({"Host": "rebound.evil.example"}, 421)):
        assert httpx.post(stack.url, headers=headers, content=b"{}", trust_env=False).status_code == status


def test_a_client_that_dawdles_is_let_go(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.port)) as silent:
        silent.settimeout(30)
        silent.sendall(b"POST /mlflow HTTP/1.1\r\nHost: 127.0")
        began = time.monotonic()
        assert silent.recv(100) == b"" and time.monotonic() - began < 20
    whole = {SIGNATURE: f"v1,{'A' * 43}=", TIMESTAMP: str(int(time.time())), DELIVERY: "d", "Content-Length": "9"}
    assert status_of(stack, whole, seconds=20) == 408


def status_of(stack: Stack, headers: dict[str, str], seconds: float) -> int:
    """Send a request's headers and no body; returns the status of the answer."""
    lines = [f"{name}: {value}" for name, value in {"Host": f"127.0.0.1:{stack.port}", **headers}.items()]
    with socket.create_connection(("127.0.0.1", stack.port)) as connection:
        connection.settimeout(seconds)
        connection.sendall("\r\n".join(["POST /mlflow HTTP/1.1", *lines, "", ""]).encode())
        return int(connection.recv(1000).split()[1])
