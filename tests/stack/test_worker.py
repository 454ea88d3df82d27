"""The worker runs the deployments of `prefect.yaml`, whatever somebody with Prefect's secret writes into the API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from stack.deploy import deploy, ensure_work_pool, line_deployments_of
from stack.services import POOL, services
from stack.worker import FileWorker
from tests.conftest import OURS
from tests.support.mlflow_server import serving
from tests.support.waiting import wait_for
from weighbridge import prefect_api
from weighbridge.line_flows import LINE_FLOWS
from weighbridge.promotion_start import promotion_notes, promotion_start
from weighbridge.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

FLOW = """
import json, os, sys, time
from pathlib import Path
from prefect import flow

@flow
def toy(line: str, number: int = 1, seconds: float = 0) -> int:
    Path(f"{line}-{number}.json").write_text(json.dumps({"environment": dict(os.environ), "folder": os.getcwd()}))
    if seconds:
        Path(f"{line}-{number}.pid").write_text(str(os.getpid()))
        time.sleep(seconds)
    return number
"""
FILE = """
name: toy
pull: null
deployments:
  - name: one
    entrypoint: flows/toy.py:toy
    parameters: {line: one}
    work_pool: {name: weighbridge, job_variables: {env: {FROM_THE_FILE: "yes"}}}
"""


class Bench:
    """A root with one deployment, a server that knows it, and a worker."""

    def __init__(self, settings: Settings, api: httpx.Client, log: Path) -> None:
        self.settings, self.api, self.log = settings, api, log
        self.pwned = settings.root / "pwned"
        self.command = f"touch {self.pwned}"

    @property
    def deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("/deployments/name/toy/one").raise_for_status().json()
        return found

    def end_of(self, run: str) -> dict[str, Any]:
        """The state in which a run ends."""

        def ended() -> dict[str, Any] | None:
            state: dict[str, Any] = self.api.get(f"/flow_runs/{run}").raise_for_status().json()["state"]
            return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        found = wait_for(ended, lambda: self.log.read_text()[-3000:], seconds=180)
        assert found
        return found

    def start(self, deployment: str, **body: Any) -> str:
        """Start a run of a deployment; returns its id."""
        answer = self.api.post(f"/deployments/{deployment}/create_flow_run", json={"parameters": {}, **body})
        run: str = answer.raise_for_status().json()["id"]
        return run

    def create(self, **body: Any) -> str:
        """Write a deployment into the API; returns its id."""
        whole = {
            "flow_id": self.deployment["flow_id"],
            "work_pool_name": POOL,
            "entrypoint": "flows/toy.py:toy",
            "parameters": {"line": "one"},
            **body,
        }
        made: str = self.api.post("/deployments/", json=whole).raise_for_status().json()["id"]
        return made

    def use_template(self, template: dict[str, Any]) -> None:
        """Give the work pool a template."""
        self.api.patch(f"/work_pools/{POOL}", json={"base_job_template": template}).raise_for_status()

    def is_refused(self, run: str, why: str) -> None:
        """Assert that a run fails with the named error, and that nothing ran."""
        state = self.end_of(run)
        assert (state["type"], "RunRefused" in state["message"], why in state["message"]) == ("FAILED", True, True), (
            state
        )
        assert not self.pwned.exists()


LINE = """
source: hf://org/toy
admission: {licences: [mit]}
schemes: [int8]
target: {gpus: [host]}
suites: [{name: general/choice}]
schedules: {promote: {cron: "*/5 * * * *", timezone: Europe/Berlin, active: false}}
"""


@pytest.fixture(scope="module")
def bench(prefect_server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("root")
    (root / "flows").mkdir()
    (root / "lines").mkdir()
    (root / "flows" / "toy.py").write_text(FLOW)
    (root / "prefect.yaml").write_text(FILE)
    settings = prefect_server.model_copy(update={"root": root})
    worker = next(service for service in services(settings) if service.name == "worker")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environment = {**inherited, **worker.program.environment}
    log = root / "worker.log"
    ensure_work_pool(settings)
    deploy(settings, lambda name, what: None)
    with (
        prefect_api.client(settings, timeout=60, retry_seconds=60) as api,
        serving(worker.program.command, root, environment, log, lambda: True),
    ):
        yield Bench(settings, api, log)


def test_a_deployment_of_the_file_runs_with_its_environment_and_parameters(bench: Bench) -> None:
    state = bench.end_of(bench.start(bench.deployment["id"], parameters={"number": 7}))
    assert state["type"] == "COMPLETED", (state, bench.log.read_text()[-3000:])
    seen = json.loads((bench.settings.root / "one-7.json").read_text())
    assert seen["folder"] == str(bench.settings.root) and seen["environment"]["FROM_THE_FILE"] == "yes"
    assert prefect_api.read_secret(bench.settings).partition(":")[2] not in json.dumps(seen["environment"])


def test_a_run_that_somebody_cancels_in_prefect_ends(bench: Bench) -> None:
    run = bench.start(bench.deployment["id"], parameters={"number": 8, "seconds": 600})
    pid = bench.settings.root / "one-8.pid"
    wait_for(lambda: pid.is_file() and pid.read_text(), "the run's process", seconds=120)
    flow = psutil.Process(int(pid.read_text()))
    bench.api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    assert bench.end_of(run)["type"] == "CANCELLED"
    wait_for(lambda: not flow.is_running(), "the end of its process", seconds=60)


def test_a_parameter_that_the_flow_does_not_take_fails_the_run(bench: Bench) -> None:
    bench.create(name="one", enforce_parameter_schema=False)
    state = bench.end_of(bench.start(bench.deployment["id"], parameters={"number": "seven"}))
    failed = state["type"] == "FAILED" and "validation" in state["message"].lower()
    assert failed, (state["message"], bench.log.read_text()[-3000:])


def test_commands_in_pull_steps_are_refused(bench: Bench) -> None:
    shell = [{"prefect.deployments.steps.run_shell_script": {"script": f"sh -c '{bench.command}'"}}]
    bench.is_refused(bench.start(bench.create(name=f"evil-{uuid4()}", pull_steps=shell)), "no deployment")
    bench.create(name="one", pull_steps=shell)
    bench.is_refused(bench.start(bench.deployment["id"]), "run_shell_script")
    bench.create(name="one", pull_steps=[])


@pytest.mark.parametrize("entrypoint", ["evil.py:toy", "../evil.py:toy", "os:system", "flows/toy.py:other"])
def test_other_code_is_refused(bench: Bench, entrypoint: str) -> None:
    (bench.settings.root.parent / "evil.py").write_text(FLOW)
    bench.create(name="one", entrypoint=entrypoint)
    bench.is_refused(bench.start(bench.deployment["id"]), "no deployment 'one'")
    bench.create(name="one")


def test_job_variables_are_refused(bench: Bench) -> None:
    evil = {"env": {"LD_PRELOAD": "/tmp/evil.so"}}
    bench.is_refused(bench.start(bench.deployment["id"], job_variables=evil), "env.LD_PRELOAD")
    bench.is_refused(bench.start(bench.create(name="one", job_variables={"command": bench.command})), "command")
    bench.create(name="one", job_variables={})


def test_a_parameter_that_the_file_fixes_is_not_replaced(bench: Bench) -> None:
    bench.is_refused(bench.start(bench.deployment["id"], parameters={"line": "../../two"}), "line")


def test_the_work_pool_s_template_decides_nothing(bench: Bench) -> None:
    pool = bench.api.get(f"/work_pools/{POOL}").raise_for_status().json()
    # Empty until a worker's report of its template has come through.
    template = pool["base_job_template"] or FileWorker.get_default_base_job_template()
    evil = {**template, "job_configuration": {**template["job_configuration"], "command": bench.command}}
    evil["job_configuration"]["env"] = {"PYTHONSTARTUP": str(bench.pwned)}
    bench.use_template(evil)
    try:
        # The worker reads the template each time it reports to the server.
        state = bench.end_of(bench.start(bench.deployment["id"], parameters={"number": 8}))
    finally:
        bench.use_template(template)
    seen = json.loads((bench.settings.root / "one-8.json").read_text())
    assert state["type"] == "COMPLETED" and not bench.pwned.exists()
    assert "PYTHONSTARTUP" not in seen["environment"]


def test_a_run_of_no_deployment_is_refused(bench: Bench) -> None:
    body = {
        "flow_id": bench.deployment["flow_id"],
        "work_pool_name": POOL,
        "state": {"type": "SCHEDULED", "state_details": {}},
        "parameters": {"line": "none"},
    }
    answer = bench.api.post("/flow_runs/", json=body).raise_for_status().json()
    if answer["work_pool_name"] == POOL:
        bench.is_refused(answer["id"], "no deployment")


def test_a_line_has_its_deployments_as_long_as_its_file_is_there(bench: Bench) -> None:
    said: list[str] = []

    def send() -> dict[str, str]:
        deploy(bench.settings, lambda name, what: said.append(what))
        return {label: found["id"] for label, found in line_deployments_of(bench.api).items()}

    for flow in LINE_FLOWS:
        text = f"from prefect import flow\n\n@flow\ndef {flow.name}(line: str) -> None:\n    pass\n"
        (bench.settings.root / "flows" / f"{flow.name}.py").write_text(text)
    file = bench.settings.root / "lines" / "mine.yaml"
    file.write_text(LINE)
    known = send()
    assert known.keys() == {"release/mine", "promote/mine", "rollback/mine"}
    promote = bench.api.get(f"/deployments/{known['promote/mine']}").json()
    [schedule] = promote["schedules"]
    assert (schedule["active"], schedule["schedule"]["timezone"]) == (False, "Europe/Berlin")
    assert promote["parameters"] == {"line": "mine"} and promote["entrypoint"] == "flows/promote.py:promote"
    assert promotion_start(bench.settings, "mine").when == "never", "no schedule, and no service that a click reaches"
    assert (
        "mine: an approval starts nothing, because the service webhook" in promotion_notes(bench.settings, ["mine"])[0]
    )
    [note] = promotion_notes(bench.settings, ["other"])
    assert note.startswith("other: an approval starts nothing, because Prefect has no deployment to promote it.")
    file.write_text(LINE.replace("active: false", "active: true"))
    assert send() == known, "a change of the file updates them in place"
    assert bench.api.get(f"/deployments/{known['promote/mine']}").json()["schedules"][0]["active"]
    start = promotion_start(bench.settings, "mine")
    assert start.when == "scheduled" and start.at is not None and start.at.minute % 5 == 0
    file.write_text("schemes: ")
    assert send() == known, "a mistake in the file takes nothing away"
    file.unlink()
    assert send() == {} and "rollback/mine" in said[-1]
    assert bench.deployment["name"] == "one"


def test_a_worker_that_was_started_with_signals_ignored_stops_all_the_same(bench: Bench) -> None:
    worker = next(service for service in services(bench.settings) if service.name == "worker")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    shell = "trap '' INT HUP; exec \"$@\""
    process = subprocess.Popen(
        ["sh", "-c", shell, "sh", *worker.program.command], env={**inherited, **worker.program.environment}
    )
    wait_for(lambda: signal.SIGTERM in _caught(process.pid), "the worker", seconds=90)
    process.terminate()
    process.wait(30)


def _caught(pid: int) -> set[int]:
    """Signals for which a process has a handler (SigCgt in /proc, proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    bits = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}
