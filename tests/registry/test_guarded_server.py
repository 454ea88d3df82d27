"""The server that the stack starts where MLflow has no accounts: what anybody on the machine may have it do."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from registry import accounts
from registry.audit import NOBODY, AuditLog
from registry.models.records import ReleaseRecord
from registry.models.registry import Registry
from registry.webhooks import ensure_webhook
from stack.services import services
from tests.support.mlflow_server import serving
from tests.support.ports import free_port
from weighbridge.errors import RegistryFailed
from weighbridge.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(400)]
Make = Callable[..., ReleaseRecord]
ASSISTANT = "/ajax-api/3.0/mlflow/assistant"


@pytest.fixture(scope="module")
def settings(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = Settings(home=tmp_path_factory.mktemp("plain"), mlflow_port=free_port(), mlflow_auth=False)
    program = services(settings)[0].program
    program.folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_database, program.folder / "mlflow.db")
    environment = {**os.environ, **program.environment}
    log = settings.home / "mlflow.log"
    with serving(program.command, program.folder, environment, log, services(settings)[0].healthy):
        yield settings


def test_the_flows_work_without_accounts(settings: Settings, release: Make) -> None:
    registry = Registry(settings)
    registry.record_release(release())
    approved = registry.approve("toy", 1, "read it all", "ada")
    registry.set_production("toy", approved.version)
    registry.set_previous("toy", approved.version)
    registry.set_previous("toy", None)
    production = registry.production("toy")
    assert production is not None and production.aliases == ("production",)
    refused = [entry for entry in AuditLog.of(settings).entries("") if entry.action == "mlflow.refused"]
    assert refused == [], "none of these requests is off the list"


def test_the_assistant_runs_nothing(settings: Settings) -> None:
    url = settings.mlflow_url + ASSISTANT
    providers = {"ollama": {"model": "m", "selected": True, "permissions": {"full_access": True}}}
    assert httpx.put(f"{url}/config", json={"providers": providers}).status_code == 403
    assert httpx.post(f"{url}/message", json={"message": "hello", "experiment_id": "1"}).status_code == 403
    whats = {entry.what: entry for entry in AuditLog.of(settings).entries("") if entry.action == "mlflow.refused"}
    assert whats[f"POST {ASSISTANT}/message"].who == NOBODY


def test_another_page_changes_nothing(settings: Settings) -> None:
    create = f"{settings.mlflow_url}/api/2.0/mlflow/experiments/create"
    for number, headers in enumerate(({"Origin": "http://evil.example"}, {"Host": "evil.example"})):
        answer = httpx.post(create, json={"name": f"of another page {number}"}, headers=headers)
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    form = httpx.post(create, data={"name": "of a form"}, headers={"Origin": "null"})
    assert form.status_code == 403


def test_a_webhook_is_made_by_the_installation_alone(settings: Settings) -> None:
    receiver = f"http://127.0.0.1:{free_port()}/mlflow"
    with pytest.raises(RegistryFailed, match="HTTP 403"):
        ensure_webhook(settings.mlflow_url, receiver, "s" * 40, None)
    ensure_webhook(settings.mlflow_url, receiver, "s" * 40, accounts.administrator(settings))
    assert accounts.own_key_file(settings).stat().st_mode & 0o777 == 0o600


def test_a_client_does_not_choose_the_address_that_the_audit_log_names(settings: Settings) -> None:
    path = f"{settings.mlflow_url}/api/2.0/mlflow/registered-models/create"
    answer = httpx.post(path, json={"name": "addressed"}, headers={"X-Forwarded-For": "192.0.2.1"})
    [entry] = [entry for entry in AuditLog.of(settings).entries() if entry.request == answer.headers["X-Request-Id"]]
    assert entry.address == "127.0.0.1"


def test_bytes_that_no_client_sends_get_no_answer_from_mlflow(settings: Settings) -> None:
    host = f"127.0.0.1:{settings.mlflow_port}"
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGVzdA==\r\n"
    )
    body = json.dumps({"name": "smuggled"})
    for start, rest in (
        ("GET /ws HTTP/1.1", upgrade),
        ("GET /api/2.0/../2.0/mlflow/users/list HTTP/1.1", ""),
        (f"GET http://{host}/signup HTTP/1.1", ""),
        ("OPTIONS * HTTP/1.1", ""),
        ("POST /api/2.0/mlflow/experiments/create HTTP/1.1", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
    ):
        with socket.create_connection(("127.0.0.1", settings.mlflow_port), timeout=30) as client:
            client.sendall(f"{start}\r\nHost: {host}\r\nContent-Type: application/json\r\n{rest}\r\n{body}".encode())
            status = client.recv(4096).partition(b"\r\n")[0]
        assert b" 403 " in status or b" 400 " in status, (start, status)
    assert Registry(settings).client.get_experiment_by_name("smuggled") is None
