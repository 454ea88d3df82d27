"""A real Envoy under a real supervisord, before the fleet's fake engines; versions 1 to 5 have passed their check."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry.audit import AuditLog
from registry.models.records import CandidateRecord, ReleaseRecord
from registry.models.registry import Registry
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.program import Program
from tasks.serve.fleet.protocol import RunningEngine
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from tasks.serve.installation import ServingInstallation
from tasks.serve.rollout import rollback
from tasks.serve.rollout.canary import roll_out
from tests.serve.rollout.rollout_support import lock_of, serve_first
from tests.serve.serve_support import make_artifact
from tests.support.waiting import wait_for
from weighbridge.line import Line
from weighbridge.settings import Settings

Promoted = tuple[Line, RunningEngine, RunningEngine]


@pytest.fixture
def gateway(settings: Settings, fleet: LocalFleet) -> Gateway:
    for version in range(1, 6):
        AuditLog.of(settings).append("state", "toy", version, what="rolling")
    gateway = Gateway(settings)
    gateway.bootstrap()
    Supervisor(settings).run(
        Program(
            name="gateway",
            command=tuple(gateway.envoy_command()),
            folder=gateway.folder,
            log=settings.logs_folder / "gateway.log",
        )
    )
    wait_for(gateway.health, seconds=20)
    return gateway


@pytest.fixture
def promoted(settings: Settings, fleet: LocalFleet, gateway: Gateway) -> Promoted:
    """A gateway with version 2 in production; version 1, the previous one, is warm."""
    line, old = serve_first(settings, fleet, gateway)
    new = fleet.ensure(line, make_artifact(settings, "new"))
    with lock_of(settings) as lock:
        roll_out(line, "2", new, gateway, lock)
    rollback.note_served(settings, "toy", 2, 1)
    return line, old, new


@pytest.fixture
def installation(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> ServingInstallation:
    """Its registry has versions 1 and 2 of the line, of the same artifacts as the fleet's; 2 is production."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db")
    installation = ServingInstallation(settings)
    installation.registry = registry
    for key, content in (("a1", "old"), ("a2", "new")):
        candidate = CandidateRecord(
            artifact=make_artifact(settings, content), outcome="non_inferior", passes=True, sentence="No worse."
        )
        record = ReleaseRecord(line="toy", repo="org/toy", commit="c" * 40, key=key, candidates=(candidate,))
        [recorded] = registry.record_release(record).candidates
        registry.approve("toy", recorded.version or 0, "good", "me")
        registry.set_state("toy", registry.versions("toy")[-1].version, "serving")
    registry.set_production("toy", 2)
    registry.set_previous("toy", 1)
    registry.set_state("toy", 1, "previous")
    return installation
