"""Promotions with MLflow and the reconciler killed at random points: registry, gateway and audit log agree afterwards.

A real MLflow on a real PostgreSQL, Prefect's server, Envoy and supervisord; stand-ins for engines. The suite does a
few promotions; `WEIGHBRIDGE_KILLED_PROMOTIONS=20 pytest tests/flows/test_promote_killed.py -s` does twenty, and prints
what was killed when.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from registry.audit import AuditLog
from registry.models.reconcile import known
from registry.models.records import CandidateRecord, ReleaseRecord
from registry.models.registry import Registry
from stack.services import Service, services
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from tests.serve.serve_support import make_artifact
from tests.support.ports import free_ports
from tests.support.postgres import postgres, postgres_programs
from tests.support.waiting import wait_for
from weighbridge import prefect_api
from weighbridge.errors import RegistryFailed, StackDown
from weighbridge.settings import Settings, load_settings

PROGRAMS = postgres_programs()
PROMOTIONS = int(os.environ.get("WEIGHBRIDGE_KILLED_PROMOTIONS", "2"))
pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(300 + 300 * PROMOTIONS),
    pytest.mark.skipif(PROGRAMS is None, reason="no PostgreSQL on this machine"),
]
TRIES = 15
RECONCILER = """
from tests.serve.serve_support import make_line, use_fake_engine
use_fake_engine()
from weighbridge.line import Line
Line.load = classmethod(lambda cls, name: make_line())
from flows.promote import promote
promote("toy")
"""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    assert PROGRAMS is not None
    with postgres(PROGRAMS) as address:
        yield f"{address}/postgres"


@pytest.fixture
def settings(database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Settings]:
    """A stack without a worker, MLflow's records in PostgreSQL."""
    first = free_ports(20)[0]
    names = ("MLFLOW_PORT", "PREFECT_PORT", "GATEWAY_PORT", "GATEWAY_ADMIN_PORT", "ENGINE_PORT_FIRST")
    for number, name in enumerate(names):
        monkeypatch.setenv(f"WEIGHBRIDGE_{name}", str(first + number))
    monkeypatch.setenv("WEIGHBRIDGE_MLFLOW_BACKEND_URI", database)
    monkeypatch.chdir(tmp_path)
    found = load_settings()
    for name, value in found.library_environment().items():
        monkeypatch.setenv(name, value)
    prefect_api.keep_secret(found)
    supervisor = Supervisor(found)
    supervisor.start({})
    try:
        Gateway(found).bootstrap()
        parts = [part for part in services(found) if part.name in ("mlflow", "prefect", "gateway")]
        for part in parts:
            supervisor.run(part.program)
        for part in parts:
            wait_for_service(part, found)
        yield found
    finally:
        supervisor.shut_down()


def test_registry_gateway_and_log_agree_after_random_kills(settings: Settings) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    print(f"seed {seed}")
    seconds = promote(settings, 1, lambda process: None)
    for number in range(2, PROMOTIONS + 1):
        victim = chance.choice(["mlflow", "reconciler", "both"])
        after = chance.uniform(0, seconds)

        def kill(process: subprocess.Popen[bytes], victim: str = victim, after: float = after) -> None:
            time.sleep(after)
            if victim != "mlflow":
                process.kill()
            if victim != "reconciler" and (state := Supervisor(settings).state("mlflow")):
                # The server and its worker, as the kernel's out-of-memory killer could.
                os.killpg(os.getpgid(state.pid), signal.SIGKILL)

        began = time.monotonic()
        promote(settings, number, kill)
        print(f"promotion {number}: {victim} killed after {after:.1f} s, agreed after {time.monotonic() - began:.0f} s")
    # State after a kill between alias and state: a window of about 40 ms, hit by chance once in a hundred promotions.
    Registry().set_state("toy", PROMOTIONS, "rolling")
    assert reconcile().wait(300) == 0, log_of(settings)
    assert Registry().version("toy", PROMOTIONS).state == "serving"


def promote(settings: Settings, number: int, kill: Callable[[subprocess.Popen[bytes]], None]) -> float:
    """Approve an artifact, reconcile with a kill, then reconcile until it succeeds; check that all records agree.

    Returns:
        Seconds of the first reconciliation.
    """
    approve(number)
    began = time.monotonic()
    process = reconcile()
    kill(process)
    process.wait(300)
    seconds = time.monotonic() - began
    for _ in range(TRIES):
        process = reconcile()
        if process.wait(300) == 0:
            break
        time.sleep(2)
    else:
        pytest.fail(f"promotion {number} never ended well: {log_of(settings)}")
    registry = Registry()
    production = registry.production("toy")
    assert production is not None and production.version == number
    states = {version.version: version.state for version in registry.versions("toy")}
    assert [version for version, state in states.items() if state == "serving"] == [number]
    assert {
        backend.version: backend.weight for backend in Gateway(settings).routes().line("toy").backends if backend.weight
    } == {str(number): 100}
    headers = {"Authorization": f"Bearer {Gateway(settings).key()}"}
    body = {"model": "toy", "messages": [{"role": "user", "content": "hello"}]}
    answer = httpx.post(f"{settings.gateway_url}/v1/chat/completions", json=body, headers=headers, timeout=20)
    assert answer.status_code == 200
    log = AuditLog()
    assert log.verify() is not None
    aliases, logged_states = known("toy", log)
    assert (aliases["production"], aliases.get("previous")) == (number, number - 1 or None)
    assert logged_states == states
    assert len([entry for entry in log.entries("toy") if entry.action == "approve"]) == number
    return seconds


def approve(number: int) -> None:
    """Record a release with a verdict against production, and approve it; retry while MLflow restarts."""
    artifact = make_artifact(load_settings(), f"release {number}")
    for _ in range(60):
        try:
            production = Registry().production("toy")
            candidate = CandidateRecord(
                artifact=artifact,
                outcome="non_inferior",
                passes=True,
                sentence="No worse.",
                production_digest=production.digest if production else "",
            )
            record = ReleaseRecord(
                line="toy", repo="org/toy", commit="c" * 40, key=f"k{number}", candidates=(candidate,)
            )
            version = Registry().record_release(record).candidates[0].version
            assert version is not None
            Registry().approve("toy", version, "no worse", "anna")
            return
        except (StackDown, RegistryFailed):
            time.sleep(2)
    pytest.fail("MLflow did not come back")


def reconcile() -> subprocess.Popen[bytes]:
    """Start the reconciliation that the schedule runs every ten minutes."""
    here = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": here}
    with (load_settings().logs_folder / "reconciler.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", RECONCILER], env=environment, stdout=log, stderr=log)


def log_of(settings: Settings) -> str:
    return (settings.logs_folder / "reconciler.log").read_text(errors="replace")[-3000:]


def wait_for_service(service: Service, settings: Settings) -> None:
    """Wait until a service answers: MLflow and Prefect create their tables at the same time, on busy cores."""

    def server_log() -> str:
        logs = {file.name: file.read_text(errors="replace")[-3000:] for file in settings.logs_folder.glob("*.log")}
        return f"{service.name} is not healthy: {Supervisor(settings).state(service.name)}, {logs}"

    wait_for(service.healthy, server_log, seconds=400)
