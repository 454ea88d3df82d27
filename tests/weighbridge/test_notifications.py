"""Notifications: sent to what the operator wrote down, once, and never at the cost of a flow or of a secret."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from tasks.announce import announced
from tasks.propose.release import ProposedCandidate, Release
from tasks.serve.step import Serving
from weighbridge import notifications
from weighbridge.errors import RolloutAborted, RolloutBusy, SettingsInvalid
from weighbridge.notifications import Delivery, addresses_file, send
from weighbridge.settings import Settings, load_settings

SECRET = "a-secret-of-the-channel"


class Webhook(ThreadingHTTPServer):
    """A service that takes notifications, refuses them, or sends them elsewhere."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, str, dict[str, Any]]] = []
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    """Keeps path, secret header and body of each request."""

    server: Webhook

    def do_POST(self) -> None:
        """Take a notification."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append((self.path, self.headers.get("X-Secret", ""), body))
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    monkeypatch.setattr(notifications, "RETRY_SECONDS", 0.01)
    server = Webhook()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(webhook: Webhook) -> Settings:
    """An installation whose notifications go to the webhook."""
    settings = load_settings()
    path = addresses_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# our channel\nhttp://127.0.0.1:{webhook.server_port}/hook?token={SECRET}&%2BX-Secret={SECRET}\n")
    path.chmod(0o600)
    return settings


def test_a_plain_webhook_gets_json_with_its_query_and_a_secret_header(webhook: Webhook, settings: Settings) -> None:
    assert send(settings, "Weighbridge", "candidate 2 waits") == [Delivery(line=2, service="JSON", delivered=True)]
    [(path, secret, body)] = webhook.received
    assert path == f"/hook?token={SECRET}" and secret == SECRET
    assert (body["title"], body["message"], body["type"]) == ("Weighbridge", "candidate 2 waits", "success")


def test_a_refusal_is_tried_again_and_a_redirect_is_not_followed(webhook: Webhook, settings: Settings) -> None:
    webhook.status = 500
    assert not send(settings, "Weighbridge", "text")[0].delivered
    assert len(webhook.received) == 1 + notifications.RETRIES
    webhook.status = 302
    assert not send(settings, "Weighbridge", "text")[0].delivered
    assert {path.partition("?")[0] for path, _, _ in webhook.received} == {"/hook"}


def test_a_failing_notification_fails_no_flow_and_no_secret_is_logged(
    webhook: Webhook, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.status = 500
    caplog.set_level(logging.DEBUG)
    serves = Serving(line="toy", version=3, digest="a" * 64, scheme="int8", changed=True)
    assert announced("promote")(lambda line: serves)("toy") is serves
    assert "A notification did not arrive: line 2 (JSON)" in caplog.text
    assert SECRET not in caplog.text


def test_what_changed_is_told_and_a_repeated_failure_only_once(webhook: Webhook, settings: Settings) -> None:
    def stopped(line: str) -> Serving:
        raise RolloutAborted("Version 4 of toy was stopped at 25 %.", "Read the engine's log.")

    nothing, third = Serving(line="toy", version=3), Serving(line="toy", version=3, scheme="int8", changed=True)
    promote, rollback = announced("promote"), announced("rollback")
    promote(lambda line: nothing)("toy")
    promote(lambda line: third)("toy")
    for _ in range(3):
        with pytest.raises(RolloutAborted):
            promote(stopped)("toy")
    rollback(lambda line: third)("toy")
    titles = [body["title"] for _, _, body in webhook.received]
    assert titles == [
        "Weighbridge: promote of toy",
        "Weighbridge: promote of toy ended with RolloutAborted",
        "Weighbridge: rollback of toy",
    ]
    assert "version 3 (int8" in webhook.received[0][2]["message"]


def test_another_process_at_work_is_nothing_to_tell(webhook: Webhook, settings: Settings) -> None:
    def busy(line: str) -> Serving:
        raise RolloutBusy("Another process moves the traffic.", "Wait.")

    with pytest.raises(RolloutBusy):
        announced("promote")(busy)("toy")
    assert webhook.received == []


def test_a_release_tells_which_candidate_waits_and_the_command_that_approves_it() -> None:
    candidate = ProposedCandidate(
        scheme="int8", digest="b" * 64, outcome="non_inferior", sentence="No worse.", version=2,
        report="http://mlflow/report", report_file="/report.html",
    )  # fmt: skip
    release = Release(line="toy", commit="c" * 40, run_url="", candidates=(candidate,))
    assert "candidate 2 (int8, bbbbbbbbbbbb) waits for approval" in release.announcement
    assert "weighbridge approve toy 2 --reason" in release.announcement


def test_addresses_that_others_can_read_are_refused(settings: Settings) -> None:
    addresses_file(settings).chmod(0o644)
    with pytest.raises(SettingsInvalid, match="can be read by others") as caught:
        send(settings, "Weighbridge", "text")
    assert "chmod 600" in caught.value.next_step


@pytest.mark.parametrize("address", [f"nonsense://{SECRET}@host", SECRET, f"file:///etc/{SECRET}", f"slack://{SECRET}"])
def test_an_address_that_cannot_be_used_is_named_by_its_line_without_its_secret(
    settings: Settings, address: str
) -> None:
    addresses_file(settings).write_text(f"\n\n{address}\n")
    with pytest.raises(SettingsInvalid, match="Line 3") as caught:
        send(settings, "Weighbridge", "text")
    assert SECRET not in str(caught.value)


def test_the_test_command_names_what_did_not_arrive(webhook: Webhook, settings: Settings) -> None:
    assert json.loads(CliRunner().invoke(app, ["notify", "test", "--json"]).stdout)[0]["delivered"]
    webhook.status = 403
    failed = CliRunner().invoke(app, ["notify", "test"])
    assert type(failed.exception).__name__ == "NotificationFailed" and "line 2 (JSON)" in str(failed.exception)
    addresses_file(settings).unlink()
    assert "no address" in str(CliRunner().invoke(app, ["notify", "test"]).exception)
