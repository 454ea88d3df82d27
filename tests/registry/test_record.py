"""The audit log of MLflow's server, on a stand-in server that only answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask, Response, g, request

from registry.audit import NOBODY, AuditLog, Entry
from registry.server.record import record_changes

VERSIONS = "/api/2.0/mlflow/model-versions/create"
WEBHOOKS = "/api/2.0/mlflow/webhooks"
ALIAS = "/ajax-api/2.0/mlflow/registered-models/alias"


def answering(folder: Path, status: int = 200, who: str = "") -> Flask:
    """A server that answers every request for a version or an alias with the same status."""
    app = Flask(__name__)

    def answer() -> Response:
        answer = {"model_version": {"name": (request.get_json(silent=True) or {}).get("name"), "version": "7"}}
        return Response(
            json.dumps(answer if status < 400 else {"error_code": "X"}), status, mimetype="application/json"
        )

    for path in (VERSIONS, ALIAS, WEBHOOKS, f"{WEBHOOKS}/7"):
        app.add_url_rule(path, path, answer, methods=["POST", "PATCH", "DELETE", "GET"])

    @app.before_request
    def sign_in() -> None:
        if who:
            g.mlflow_authenticated_user = who

    record_changes(app, folder)
    return app


def entries(folder: Path) -> list[Entry]:
    AuditLog(folder).verify()
    return list(AuditLog(folder).entries())


def test_a_change_is_logged_with_account_address_and_request(tmp_path: Path) -> None:
    client = answering(tmp_path, who="ada").test_client()
    body = {"name": "toy", "source": "models:/toy-candidates/2", "run_id": "r1", "tags": [{"key": "a", "value": "b"}]}
    answer = client.post(VERSIONS, json=body, environ_base={"REMOTE_ADDR": "10.1.2.3"})
    client.delete(ALIAS, json={"name": "toy-candidates", "alias": "x"})

    created, removed = entries(tmp_path)
    assert (created.who, created.action, created.line, created.model, created.version) == (
        "ada",
        "mlflow.create_model_version",
        "toy",
        "toy",
        7,
    )
    assert created.what == "source models:/toy-candidates/2, run_id r1"
    assert (created.address, created.request) == ("10.1.2.3", answer.headers["X-Request-Id"]) and created.request
    assert (removed.line, removed.model, removed.version, removed.what) == ("toy", "toy-candidates", None, "alias x")
    assert AuditLog(tmp_path).approver("toy", 7) == "ada"
    assert AuditLog(tmp_path).approver("toy", 8) == ""


def test_without_accounts_the_approver_is_the_name_given(tmp_path: Path) -> None:
    answering(tmp_path).test_client().post(VERSIONS, json={"name": "toy", "source": "models:/toy-candidates/2"})
    AuditLog(tmp_path).append("approve", "toy", 7, who="tom")
    assert [entry.who for entry in entries(tmp_path)] == [NOBODY, "tom"]
    assert AuditLog(tmp_path).approver("toy", 7) == "tom"


@pytest.mark.parametrize("status", [400, 403, 500])
def test_failed_requests_are_not_logged(tmp_path: Path, status: int) -> None:
    client = answering(tmp_path, status).test_client()
    assert client.post(VERSIONS, json={"name": "toy", "source": "s"}).status_code == status
    assert entries(tmp_path) == [] and list((tmp_path / "asked").iterdir()) == []


def test_changes_of_webhooks_are_logged_without_what_may_be_a_token(tmp_path: Path) -> None:
    client = answering(tmp_path, who="admin").test_client()
    client.post(WEBHOOKS, json={"name": "x", "url": "https://me:pass@hooks.example/T0KEN?k=T0KEN", "secret": "T0KEN"})
    client.patch(f"{WEBHOOKS}/7", json={"url": "T0KEN", "status": "DISABLED"})
    client.delete(f"{WEBHOOKS}/7")
    assert [(entry.who, entry.action, entry.what) for entry in entries(tmp_path)] == [
        ("admin", "mlflow.create_webhook", "name x, url https://hooks.example"),
        ("admin", "mlflow.update_webhook", "webhook_id 7, url …, status DISABLED"),
        ("admin", "mlflow.delete_webhook", "webhook_id 7"),
    ]


def test_reads_are_not_logged(tmp_path: Path) -> None:
    answering(tmp_path).test_client().get(ALIAS, json={"name": "toy"})
    assert entries(tmp_path) == []


def test_nothing_is_changed_that_the_log_would_not_take(tmp_path: Path) -> None:
    app = answering(tmp_path)
    AuditLog(tmp_path).append("state", "toy", 1)
    (tmp_path / "log.jsonl").write_text("nonsense\n")
    answer = app.test_client().post(VERSIONS, json={"name": "toy", "source": "s"})
    assert answer.status_code == 500 and "The change was not made" in answer.get_json()["message"]
    assert not list((tmp_path / "asked").glob("*"))


def test_a_log_that_breaks_meanwhile_fails_the_request_and_is_completed_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    app = answering(tmp_path)

    @app.before_request
    def damage() -> None:
        log.write_text("nonsense\n")

    answer = app.test_client().post(VERSIONS, json={"name": "toy", "source": "s"})
    assert answer.status_code == 500 and "The change was made, but the audit log" in answer.get_json()["message"]
    log.unlink()
    answering(tmp_path)
    (entry,) = entries(tmp_path)
    assert entry.action == "mlflow.create_model_version" and "may have been made or not" in entry.reason
    assert list((tmp_path / "asked").iterdir()) == []


def test_pending_requests_of_a_killed_server_are_logged_once(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    pending = {
        "action": "mlflow.set_registered_model_alias",
        "who": "oz",
        "line": "toy",
        "version": 3,
        "what": "alias production",
        "request": {"model": "toy", "address": "127.0.0.1", "id": "abc"},
    }
    (tmp_path / "asked").mkdir()
    for pid in (int(dead.stdout), os.getppid()):
        (tmp_path / "asked" / f"{pid}-abc.json").write_text(json.dumps(pending))
    answering(tmp_path)
    answering(tmp_path)
    (entry,) = entries(tmp_path)
    assert (entry.who, entry.version, entry.request) == ("oz", 3, "abc") and "ended before it answered" in entry.reason
    assert [path.name for path in (tmp_path / "asked").iterdir()] == [f"{os.getppid()}-abc.json"]


def test_entries_without_a_request_stay_valid(tmp_path: Path) -> None:
    """Logs of versions whose entries had no model, address or request are valid."""
    old = (
        '{"number":1,"at":"2026-11-25T20:00:00.000+00:00","who":"tom","action":"approve","line":"toy","version":1,'
        '"what":"d","reason":"r","previous":"' + "0" * 64 + '","hash":"HASH"}'
    )
    import hashlib

    fields = {name: value for name, value in json.loads(old).items() if name != "hash"}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    (tmp_path / "log.jsonl").write_text(old.replace("HASH", digest) + "\n")
    answering(tmp_path, who="ada").test_client().post(VERSIONS, json={"name": "toy", "source": "s"})
    assert [entry.who for entry in entries(tmp_path)] == ["tom", "ada"]
