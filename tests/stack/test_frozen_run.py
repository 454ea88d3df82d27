"""A run whose process is stopped, as a sleeping machine stops it: a real server, a real worker, SIGSTOP and SIGCONT."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cli.flowrun import error_of
from stack.deploy import deploy, ensure_work_pool
from stack.services import services
from stack.worker_life import last_heartbeat
from tests.conftest import OURS
from tests.support.mlflow_server import serving
from tests.support.waiting import wait_for
from weighbridge import prefect_api
from weighbridge.errors import RunFrozen
from weighbridge.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

FLOW = """
import os, time
from pathlib import Path
from prefect import flow

@flow(persist_result=True, result_serializer="json")
def toy(line: str, name: str, attempts: int) -> int:
    made = len(list(Path(".").glob(f"{name}-*")))
    Path(f"{name}-{made + 1}").write_text(str(os.getpid()))
    if made + 1 < attempts:
        time.sleep(300)
    return made + 1
"""
FILE = """
name: toy
pull: null
deployments:
  - name: one
    entrypoint: flows/toy.py:toy
    parameters: {line: one}
    concurrency_limit: {limit: 1, collision_strategy: ENQUEUE}
    work_pool: {name: weighbridge}
"""


class Bench:
    """A root with one deployment, a server that knows it, and a worker."""

    def __init__(self, settings: Settings, api: httpx.Client, log: Path) -> None:
        self.settings, self.api, self.log = settings, api, log

    def start(self, **parameters: Any) -> str:
        """Start a run; returns its id."""
        found = self.api.get("/deployments/name/toy/one").raise_for_status().json()
        body = {"parameters": parameters}
        made = self.api.post(f"/deployments/{found['id']}/create_flow_run", json=body).raise_for_status()
        return str(made.json()["id"])

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/flow_runs/{run}").raise_for_status().json()
        return found

    def process(self, name: str, attempt: int) -> int:
        """Process of an attempt of a run, once it works."""
        file = self.settings.root / f"{name}-{attempt}"
        text = wait_for(lambda: file.is_file() and file.read_text(), self.logged, seconds=120)
        return int(text)

    def logged(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def freeze(self, run: str, pid: int) -> None:
        """Stop a process until its slot is given away, as Prefect does after five minutes, and let it go on."""
        wait_for(lambda: self.run(run)["state"]["type"] == "RUNNING", self.logged, seconds=60)
        lease = self.run(run)["state"]["state_details"]["deployment_concurrency_lease_id"]
        os.kill(pid, signal.SIGSTOP)
        body = {"lease_id": lease}
        self.api.post("/v2/concurrency_limits/decrement-with-lease", json=body).raise_for_status()
        time.sleep(12)
        os.kill(pid, signal.SIGCONT)

    def ended(self, run: str) -> dict[str, Any]:
        """A run that has ended."""
        ends = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_for(lambda: self.run(run)["state"]["type"] in ends, self.logged, seconds=180)
        return self.run(run)

    def messages(self, run: str) -> str:
        asked = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return "\n".join(entry["message"] for entry in self.api.post("/logs/filter", json=asked).json())


@pytest.fixture(scope="module")
def bench(prefect_server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("root")
    for folder in ("flows", "lines"):
        (root / folder).mkdir()
    (root / "flows" / "toy.py").write_text(FLOW)
    (root / "prefect.yaml").write_text(FILE)
    settings = prefect_server.model_copy(update={"root": root})
    worker = next(service for service in services(settings) if service.name == "worker")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    log = root / "worker.log"
    ensure_work_pool(settings)
    deploy(settings, lambda name, what: None)
    with (
        prefect_api.client(settings, timeout=60, retry_seconds=60) as api,
        serving(worker.program.command, root, {**inherited, **worker.program.environment}, log, lambda: True),
    ):
        yield Bench(settings, api, log)


def test_a_run_that_lost_its_slot_while_it_was_stopped_starts_again_by_itself(bench: Bench) -> None:
    run = bench.start(name="twice", attempts=2)
    pid = bench.process("twice", 1)
    bench.freeze(run, pid)
    ended = bench.ended(run)
    assert (ended["state"]["type"], ended["run_count"]) == ("COMPLETED", 2), (ended["state"], bench.logged())
    assert bench.process("twice", 2) != pid and not psutil.pid_exists(pid)
    said = bench.messages(run)
    assert "did not run for" in said and "starts again by itself" in said
    assert "Traceback" not in said and "410" not in said


def test_a_run_that_freezes_each_time_ends_with_the_cause_and_the_command(bench: Bench) -> None:
    run = bench.start(name="always", attempts=9)
    for attempt in (1, 2, 3):
        bench.freeze(run, bench.process("always", attempt))
    ended = bench.ended(run)
    assert (ended["state"]["type"], ended["run_count"]) == ("CRASHED", 3)
    message = ended["state"]["message"]
    assert message.startswith("RunFrozen: ") and "`weighbridge toy one` continues" in message
    from prefect.client.schemas.objects import FlowRun

    error = error_of(FlowRun.model_validate(ended))
    assert isinstance(error, RunFrozen) and error.exit_status == 18 and "machine slept" in error.what


def test_a_short_pause_costs_nothing(bench: Bench) -> None:
    run = bench.start(name="once", attempts=2)
    pid = bench.process("once", 1)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(12)
    os.kill(pid, signal.SIGCONT)
    time.sleep(3)
    assert psutil.Process(pid).is_running() and bench.run(run)["state"]["type"] == "RUNNING"
    # As Prefect's automation marks a run that it did not hear from: the woken process notices.
    mark = {"state": {"type": "CRASHED", "name": "Crashed", "message": "No heartbeat"}, "force": True}
    bench.api.post(f"/flow_runs/{run}/set_state", json=mark).raise_for_status()
    assert bench.ended(run)
    wait_for(lambda: bench.run(run)["state"]["type"] == "COMPLETED", bench.logged, seconds=120)
    assert bench.run(run)["run_count"] == 2


def test_the_last_heartbeat_of_the_worker_is_known(bench: Bench) -> None:
    heard = wait_for(lambda: last_heartbeat(bench.settings, 5), seconds=60)
    assert heard and time.time() - heard < 60
