"""`weighbridge key` as a user meets it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner, Result

from cli.keys import key as command
from registry.audit import AuditLog
from tasks.serve.gateway import Gateway, Limits
from tasks.serve.gateway.logs import access_log
from weighbridge.errors import AuditBroken, KeyNameInvalid, LineUnknown
from weighbridge.settings import load_settings


def weighbridge(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_a_key_is_printed_alone_and_once() -> None:
    added = weighbridge("add", "ci", "--days", "2", "--requests-per-minute", "1000")
    assert added.exit_code == 0, added.stderr
    key = added.stdout.strip()
    assert key.startswith("wb-") and added.stdout.count("\n") == 1
    assert "is down" in added.stderr
    listed = weighbridge("list")
    assert "ci" in listed.stdout and "1,000" in listed.stdout and key not in listed.stdout
    with pytest.raises(KeyNameInvalid, match="ci has a key already"):
        weighbridge("add", "ci")
    (entry,) = [key for key in json.loads(weighbridge("list", "--json").stdout) if key["name"] == "ci"]
    assert not entry["expired"] and "sha256" not in entry
    left = datetime.fromisoformat(entry["expires"]) - datetime.now(UTC)
    assert timedelta(days=1.9) < left < timedelta(days=2)


def test_a_key_is_removed_by_its_name() -> None:
    assert json.loads(weighbridge("add", "ci", "--json").stdout)["key"].startswith("wb-")
    assert json.loads(weighbridge("remove", "ci", "--json").stdout) == {"removed": "ci"}
    program = [sys.executable, "-m", "cli.main", "key", "remove", "ci", "--json"]
    gone = subprocess.run(program, capture_output=True, text=True, check=False)
    assert gone.returncode == 2 and "there are: default" in json.loads(gone.stdout)["what"]


def test_who_changed_keys_stands_in_the_audit_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_USER", "anna")
    key = weighbridge("add", "ci", "--days", "2", "--tokens-per-minute", "5000").stdout.strip()
    weighbridge("limit", "smollm2", "--requests-per-minute", "60")
    weighbridge("remove", "ci")
    log = AuditLog()
    entries = list(log.entries())
    assert [(entry.action, entry.line, entry.who) for entry in entries] == [
        ("key added", "", "anna"),
        ("key limit", "smollm2", "anna"),
        ("key removed", "", "anna"),
    ]
    assert entries[0].what.startswith("ci, until ") and "tokens 5,000" in entries[0].what
    assert entries[2].what == "ci"
    text = log.path.read_text()
    assert key not in text and hashlib.sha256(key.encode()).hexdigest() not in text
    # What failed is not in it.
    with pytest.raises(KeyNameInvalid):
        weighbridge("remove", "ci")
    assert log.verify() == entries[-1]


def test_a_key_that_cannot_be_written_down_is_not_made() -> None:
    AuditLog().append("key added", "", None)
    AuditLog().path.write_text("nonsense\n")
    with pytest.raises(AuditBroken):
        weighbridge("add", "ci")
    assert "ci" not in Gateway().keys().root


def test_a_lines_limits_are_kept_beside_its_route() -> None:
    limited = weighbridge("limit", "smollm2", "--tokens-per-minute", "5000", "--json")
    assert json.loads(limited.stdout) == {"line": "smollm2", "requests_per_minute": None, "tokens_per_minute": 5000}
    assert Gateway().routes().line("smollm2").limits == Limits(tokens_per_minute=5000)
    weighbridge("limit", "smollm2")
    assert Gateway().routes().line("smollm2").limits == Limits()
    with pytest.raises(LineUnknown):
        weighbridge("limit", "nosuch")


def test_usage_counts_requests_and_tokens_by_key_line_and_day_and_says_what_it_does_not_know() -> None:
    today = datetime.now(UTC)
    log = access_log(load_settings())
    log.parent.mkdir(parents=True, exist_ok=True)

    def entry(**changes: object) -> str:
        request = {
            "time": f"{today:%Y-%m-%dT%H:%M:%S.000Z}", "client": "ci", "line": "llama", "status": 200,
            "prompt_tokens": "10", "completion_tokens": 4,
        }  # fmt: skip
        return json.dumps({**request, **changes})

    lines = [
        entry(),
        entry(),
        entry(status=429, prompt_tokens=None, completion_tokens=None),
        entry(prompt_tokens=None, completion_tokens=None),
        entry(client="web", line="qwen"),
        entry(client=None),
        entry(time="2020-01-01T00:00:00.000Z"),
        '{"time": "2026-',
    ]
    log.write_text("\n".join(lines) + "\n" + entry()[:40])
    found = json.loads(weighbridge("usage", "--json").stdout)
    ci, web = found["rows"]
    assert (ci["client"], ci["line"], ci["day"]) == ("ci", "llama", f"{today:%Y-%m-%d}")
    assert [ci[name] for name in ("requests", "refused", "uncounted", "prompt_tokens", "completion_tokens")] == [
        4, 1, 1, 20, 8
    ]  # fmt: skip
    assert (web["client"], web["requests"]) == ("web", 1)
    assert found["unreadable"] == 1 and found["since"].startswith("2020-01-01")
    text = weighbridge("usage", "--line", "llama").stdout
    assert "web" not in text and "1 answered requests have no count of tokens" in text and "cannot be read" in text
    assert "No request with a key" in weighbridge("usage", "--name", "nobody").stdout
