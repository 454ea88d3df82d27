"""A backup with production, restored where nothing was before: the old key gets an answer once `up` has started it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from registry.audit import ADMIT, AuditLog
from registry.backup import RESTORED_ROUTES
from registry.signing import KeyPair
from registry.store import Artifact
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.program import Program
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Backend, Gateway, Limits
from tasks.serve.recovery import production_of, serve_restored
from tasks.serve.rollout import rollback
from tests.cli.test_backup_command import weighbridge
from tests.serve.serve_support import make_artifact, make_line, use_fake_engine
from tests.support.ports import free_ports
from tests.support.waiting import wait_for
from weighbridge.errors import BackupFailed
from weighbridge.health import answers
from weighbridge.line import Line
from weighbridge.settings import Settings, load_settings

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """Go to a machine by name, with a home, a root and ports of its own."""

    def go(name: str) -> Settings:
        first = free_ports(62)[0]
        root = tmp_path / name / "root"
        (root / "eval_suites").mkdir(parents=True, exist_ok=True)
        variables = {
            "HOME": tmp_path / name / "home",
            "ROOT": root,
            "ENGINE_PORT_FIRST": first,
            "GATEWAY_PORT": first + 60,
        }
        for variable, value in variables.items():
            monkeypatch.setenv(f"WEIGHBRIDGE_{variable}", str(value))
        return load_settings()

    return go


def serving(settings: Settings, empty_database: Path) -> tuple[str, Artifact]:
    """Make an installation whose routes say that it serves version 2 and keeps version 1; return a client's key."""
    (settings.home / "mlflow").mkdir(parents=True)
    (settings.home / "mlflow" / "mlflow.db").write_bytes(empty_database.read_bytes())
    KeyPair.of(settings).prepare()
    line = make_line().model_dump(mode="json", exclude={"name"})
    (settings.root / "lines").mkdir()
    (settings.root / "lines" / "toy.yaml").write_text(json.dumps(line))
    gateway, log, backends = Gateway(settings), AuditLog.of(settings), []
    for version, weight in (("1", 0), ("2", 100)):
        artifact = make_artifact(settings, f"version {version}")
        log.append(ADMIT, "toy", int(version), what=artifact.digest)
        endpoint = {"host": "127.0.0.1", "port": 9}
        backends.append(
            Backend.model_validate(
                {
                    "version": version,
                    "digest": artifact.digest,
                    "engine": "old",
                    "endpoints": [endpoint],
                    "weight": weight,
                }
            )
        )
    gateway.set_line("toy", backends, wait=False)
    gateway.set_limits("toy", Limits(requests_per_minute=600), wait=False)
    return gateway.add_key("customer", wait=False), artifact


@pytest.mark.server
def test_the_old_key_gets_an_answer_on_a_fresh_machine(
    machine: Callable[[str], Settings],
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, artifact = serving(machine("old"), empty_database)
    file = tmp_path / "backup"
    (secret := tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    secret.chmod(0o600)
    options = ("--with-production", "--with-previous", "--passphrase-file", secret)
    tried = weighbridge("backup", file, *options[:2], "--dry-run")
    assert "version 2" in tried.stdout and "kept warm" in tried.stdout and not file.exists(), tried.stderr
    written = weighbridge("backup", file, *options)
    assert written.returncode == 0 and "which only the passphrase opens" in written.stdout, written.stderr

    new = machine("new")
    monkeypatch.setenv("WEIGHBRIDGE_BACKUP_PASSPHRASE", PASSPHRASE)
    restored = weighbridge("restore", file)
    assert restored.returncode == 0 and "is served after `up`" in restored.stdout, restored.stderr
    assert "Not in this store" not in restored.stdout

    use_fake_engine(monkeypatch.setattr)
    gateway, supervisor, fleet = Gateway(new), Supervisor(new), LocalFleet(new)
    supervisor.start({})
    try:
        gateway.bootstrap()
        supervisor.run(
            Program(
                name="gateway",
                command=tuple(gateway.envoy_command()),
                folder=new.home / "gateway",
                log=new.logs_folder / "gateway.log",
            )
        )
        wait_for(lambda: answers(f"{new.gateway_url}/healthz"), "the gateway")
        said: list[str] = []
        serve_restored(new, said.append)
        answer = httpx.post(
            f"{new.gateway_url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {key}"},
            json={"model": "toy", "messages": [{"role": "user", "content": "What is the capital of France?"}]},
        )
        assert answer.status_code == 200 and "Paris" in answer.text, (answer.text, said)
        assert answer.headers["x-weighbridge-version"] == "2"
        route = gateway.routes().line("toy")
        assert {backend.version: backend.weight for backend in route.backends} == {"2": 100, "1": 0}
        assert route.limits.requests_per_minute == 600
        assert sorted(engine.artifact.digest == artifact.digest for engine in fleet.engines()) == [False, True]
        assert not (new.home / RESTORED_ROUTES).exists()
        known = rollback.served(new, "toy")
        assert known is not None and (known.production, known.previous) == (2, 1)
        serve_restored(new, said.append)
        assert gateway.routes().line("toy") == route
    finally:
        supervisor.shut_down()


def test_a_line_that_cannot_be_served_waits_for_the_next_up(
    machine: Callable[[str], Settings], empty_database: Path
) -> None:
    settings = machine("old")
    serving(settings, empty_database)
    gateway = Gateway(settings)
    waiting = settings.home / RESTORED_ROUTES
    gateway._file.path.rename(waiting)
    before, said = waiting.read_bytes(), list[str]()
    serve_restored(settings, said.append)
    assert len(said) == 1 and said[0].startswith("toy is not served yet: ")
    assert waiting.read_bytes() == before


def test_there_is_no_production_where_nothing_serves(own_home: Path) -> None:
    with pytest.raises(BackupFailed, match="No line serves anything"):
        production_of(load_settings())


def test_only_what_serves_is_taken_unless_more_is_asked_for(
    machine: Callable[[str], Settings], empty_database: Path
) -> None:
    settings = machine("old")
    _, artifact = serving(settings, empty_database)
    (settings.root / "eval_suites" / "make.py").write_text("a program")
    taken = production_of(settings)
    assert [served.artifact for served in taken.versions] == [artifact] and taken.versions[0].serves
    assert sorted(taken.files) == ["gateway/routes.json", "root/lines/toy.yaml"]
    more = production_of(settings, with_previous=True)
    assert [(served.version, served.serves) for served in more.versions] == [("2", True), ("1", False)]
    assert Line.load("toy").name == "toy" and "WEIGHBRIDGE_ROOT" in os.environ
