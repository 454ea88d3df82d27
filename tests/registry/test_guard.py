"""The guard before MLflow, with an application behind it that only says what reached it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from registry.audit import NOBODY, AuditLog, Entry
from registry.server.guard import KEPT_FREE_BYTES, Guard
from registry.server.refusals import BURST, SECONDS_EACH, Refusals

HOST = "127.0.0.1:5000"
CREATE = "/api/2.0/mlflow/model-versions/create"
ALIAS = "/api/2.0/mlflow/registered-models/alias"
SOURCE = f"store://toy/{'a' * 64}"
MINE, THEIRS = ({"name": name, "alias": "production", "source": SOURCE} for name in ("toy-candidates", "toy"))


@dataclass
class Behind:
    """An application that keeps what reached it."""

    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    status: int = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive()).get("more_body") or message["body"]:
            body += message["body"]
            if not message.get("more_body"):
                break
        self.requests.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def behind() -> Behind:
    return Behind()


@pytest.fixture
def guard(behind: Behind, tmp_path: Path) -> Guard:
    """A guard before a server with accounts, of which `ada` is one."""
    verify = ("ada", "her long password").__eq__
    return Guard(behind, frozenset({HOST}), Refusals(AuditLog(tmp_path)), lambda *given: verify(given))


def ask(guard: Guard, method: str, target: str, **options: Any) -> httpx.Response:
    """Send a request as uvicorn hands it over; `target` is a path as sent, percent-encoded, maybe with a query."""
    raw, _, query = target.partition("?")
    account = options.pop("auth", None)
    request = httpx.Client(base_url=f"http://{HOST}").build_request(method, "/", **options)
    if account:
        request = next(httpx.BasicAuth(*account).auth_flow(request))
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 1),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": request.read(), "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return httpx.Response(sent[0]["status"], content=sent[1]["body"])


def entries(folder: Path) -> list[Entry]:
    AuditLog(folder).verify()
    return list(AuditLog(folder).entries())


def as_json(content: object) -> bytes:
    return json.dumps(content).encode()


def sent_as(media_type: str, content: bytes) -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": media_type}}


def forms() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Iterate over a name, method, target and options of requests that a checker and a doer may read differently."""
    theirs, json_type = as_json(THEIRS), "application/json"
    query = f"{ALIAS}?name=toy-candidates&alias=production"
    yield "query for the check, body for the doer", "DELETE", query, sent_as("text/plain", theirs)
    yield "query beside a JSON body", "DELETE", query, {"json": THEIRS}
    yield "query alone", "DELETE", query, {}
    yield "text/plain", "POST", ALIAS, sent_as("text/plain", theirs)
    yield "form", "POST", ALIAS, {"data": THEIRS}
    yield "multipart", "POST", ALIAS, {"files": {"name": b"toy"}}
    yield "vendor's JSON", "POST", ALIAS, sent_as("application/x+json", theirs)
    yield "no media type", "POST", ALIAS, {"content": theirs}
    yield "another charset", "POST", ALIAS, sent_as("application/json; charset=utf-16", theirs)
    yield "UTF-16", "POST", ALIAS, sent_as(json_type, json.dumps(THEIRS).encode("utf-16"))
    yield "UTF-32 without BOM", "POST", ALIAS, sent_as(json_type, json.dumps(THEIRS).encode("utf-32-le"))
    yield "BOM", "POST", ALIAS, sent_as(json_type, b"\xef\xbb\xbf" + theirs)
    yield "field twice", "POST", ALIAS, sent_as(json_type, b'{"name":"toy-candidates","name":"toy"}')
    yield "field twice, escaped", "POST", ALIAS, sent_as(json_type, b'{"name":"toy-candidates","n\\u0061me":"toy"}')
    yield "field twice, inside", "POST", ALIAS, sent_as(json_type, b'{"tags":[{"key":"a","key":"b"}]}')
    yield "second spelling", "POST", ALIAS, sent_as(json_type, b'{"runId":"1"}')
    yield "JSON in a string", "POST", ALIAS, sent_as(json_type, as_json(theirs.decode()))
    yield "a list", "POST", ALIAS, sent_as(json_type, b'[{"name":"toy"}]')
    yield "NaN", "POST", ALIAS, sent_as(json_type, b'{"value":NaN}')
    yield "infinite", "POST", ALIAS, sent_as(json_type, b'{"value":1e999}')
    yield "two values", "POST", ALIAS, sent_as(json_type, theirs + theirs)
    yield "deep", "POST", ALIAS, sent_as(json_type, b'{"a":' * 100_000)
    yield "compressed", "POST", ALIAS, {"json": MINE, "headers": {"Content-Encoding": "gzip"}}
    for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        yield header, "POST", ALIAS, {"json": MINE, "headers": {header: "DELETE"}}
    yield "underscore", "POST", ALIAS, {"json": MINE, "headers": {"content_type": "text/plain"}}
    yield (
        "two types",
        "POST",
        ALIAS,
        {"json": MINE, "headers": [("content-type", "text/plain"), ("content-type", "application/json")]},
    )
    yield "body of GET", "GET", "/api/2.0/mlflow/registered-models/get", {"json": THEIRS}
    yield "query twice", "GET", "/api/2.0/mlflow/registered-models/get?name=toy-candidates&name=toy", {}
    yield "query of a file", "PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a?path=b", {"content": b"x"}


@pytest.mark.parametrize(("method", "target", "options"), [pytest.param(*form[1:], id=form[0]) for form in forms()])
def test_a_message_with_two_meanings_is_refused(
    guard: Guard, behind: Behind, method: str, target: str, options: dict[str, Any]
) -> None:
    answer = ask(guard, method, target, **options)
    assert answer.status_code == 403 and answer.json()["error_code"] == "PERMISSION_DENIED"
    assert behind.requests == []


@pytest.mark.parametrize(
    "target",
    [
        "//api/2.0/mlflow/runs/get",
        "/api/2.0/mlflow//runs/get",
        "/api/2.0/./mlflow/runs/get",
        "/api/2.0/mlflow/%2e/runs/get",
        "/static-files/../api/2.0/mlflow/runs/get",
        "/static-files/%2e%2e/api/2.0/mlflow/runs/get",
        "/API/2.0/mlflow/runs/get",
        "/api/2.0/mlflow/runs/get/",
        "/api/2.0/mlflow/runs/get;x",
        "/api/2.0/preview/mlflow/runs/get",
        "/api/2.0/mlflow/runs/get%00",
        "/api/2.0/mlflow/runs%2fget%20",
        "/api/2.0/mlflow-artifacts/artifacts/1/../../mlflow.db",
        "/api/2.0/mlflow-artifacts/artifacts/1/%2e%2e/%2e%2e/passwords/admin",
        "/api/2.0/mlflow-artifacts/artifacts/1/%252e%252e/passwords/admin",
        "/api/2.0/mlflow-artifacts/artifacts/1/..%5cpasswords",
        "/api/2.0/mlflow-artifacts/artifacts//etc/passwd",
        "/api/2.0/mlflow-artifacts/artifacts/%ff",
        "/ajax-api/3.0/mlflow/assistant/config",
        "/ajax-api/3.0/mlflow/gateway/secrets/list",
        "/ajax-api/3.0/jobs/1",
        "/graphql?query=1",
        "/metrics",
    ],
)
def test_a_path_with_another_spelling_is_refused(guard: Guard, behind: Behind, target: str) -> None:
    assert ask(guard, "GET", target).status_code == 403
    assert behind.requests == []


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "CONNECT", "PUT", "get", "LINK"])
def test_a_method_that_nobody_needs_is_refused(guard: Guard, behind: Behind, method: str) -> None:
    assert ask(guard, method, "/api/2.0/mlflow/runs/get").status_code == 403
    assert behind.requests == []


def test_the_doer_gets_the_message_that_was_checked(guard: Guard, behind: Behind) -> None:
    spaced = b'{ "name" : "t\\u006fy",\n "tags": [] }'
    assert ask(guard, "POST", ALIAS, **sent_as("application/json; charset=UTF-8", spaced)).status_code == 200
    assert behind.requests == [("POST", ALIAS, b'{"name": "toy", "tags": []}')]
    assert ask(guard, "DELETE", ALIAS, json=THEIRS).status_code == 200
    assert ask(guard, "GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id=a&run_id=b").status_code == 200
    name = "/api/2.0/mlflow-artifacts/artifacts/1/plots%20of%20%C3%A9t%C3%A9/suites.png"
    assert ask(guard, "PUT", name, content=b"\x89PNG").status_code == 200
    assert behind.requests[-1] == ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/plots of été/suites.png", b"\x89PNG")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("experiments/create", {"name": "mine", "artifact_location": "file:///home"}),
        ("experiments/create", {"name": "mine", "artifact_location": "/home"}),
        ("model-versions/create", {"name": "toy-candidates", "source": "file:///etc"}),
        ("model-versions/create", {"source": "/etc", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]}),
        ("model-versions/create", {"name": "toy-candidates", "source": "s3://bucket/key"}),
        ("model-versions/create", {"name": "toy-candidates", "source": f"store://toy/{'a' * 64}/../../keys"}),
        ("model-versions/create", {"name": "toy-candidates", "source": None}),
        ("model-versions/create", {"name": "toy-candidates"}),
        ("runs/set-tag", {"run_id": "mine", "run_uuid": "theirs", "key": "a", "value": "b"}),
        ("runs/set-tag", {"run_id": "mine", "run_uuid": None, "key": "a", "value": "b"}),
    ],
)  # fmt: skip
def test_a_place_of_this_machine_and_a_second_name_are_refused(
    guard: Guard, behind: Behind, path: str, content: dict[str, Any]
) -> None:
    for prefix in ("/api/2.0/mlflow/", "/ajax-api/2.0/mlflow/"):
        assert ask(guard, "POST", prefix + path, json=content).status_code == 403
    assert behind.requests == []


@pytest.mark.parametrize("path", ["../keys/key", "/etc/passwd", "a/../../b", "%2e%2e/b", "a\\..", "file:/etc", "a\n"])
def test_a_file_outside_a_run_is_refused(guard: Guard, behind: Behind, path: str) -> None:
    query = f"?run_uuid=1&path={quote(path, safe='')}"
    for address in ("/get-artifact", "/api/2.0/mlflow/artifacts/list", "/model-versions/get-artifact"):
        assert ask(guard, "GET", address + query).status_code == 403
    assert behind.requests == []
    assert ask(guard, "GET", "/get-artifact?run_uuid=1&path=items/choice%20%C3%A9.jsonl").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "10.evil.example:5000"},
        {"Host": "127.0.0.1"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "http://localhost:5000"},
        {"Origin": f"http://{HOST}.evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_another_page_is_refused(guard: Guard, behind: Behind, headers: dict[str, str]) -> None:
    assert ask(guard, "POST", CREATE, json=MINE, headers=headers).status_code == 403
    assert ask(guard, "GET", "/api/2.0/mlflow/runs/get?run_id=1", headers=headers).status_code == 403
    assert behind.requests == []


def test_mlflows_own_page_and_a_link_to_it_are_answered(guard: Guard) -> None:
    own = {"Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert ask(guard, "POST", CREATE, json=MINE, headers=own).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(guard, "GET", "/", headers=link).status_code == 200
    assert ask(guard, "GET", "/get-artifact?path=report.html&run_uuid=1", headers=link).status_code == 200


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("query GetRun($data: MlflowGetRunInput!) { mlflowGetRun(input: $data) { run { info { runUuid } } } }", 200),
        ("{ mlflowSearchModelVersions(input: {}) { modelVersions { name } } }", 403),
        ("{ __schema { mutationType { fields { name } } } }", 403),
        ("mutation { mlflowSearchRuns(input: {}) { runs { info { runUuid } } } }", 403),
        ("subscription { mlflowGetRun { run } }", 403),
        (
            "query { ...all } fragment all on Query { mlflowSearchModelVersions(input: {}) { modelVersions { id } } }",
            403,
        ),
        ("query a { mlflowGetRun { run } } query b { mlflowGetRun { run } }", 403),
        ('{ alias: test(inputString: "x") { output } }', 403),
        ("{ mlflowGetRun" * 5000, 403),
        ("{", 403),
    ],
)
def test_only_the_queries_of_mlflows_page_are_answered(guard: Guard, query: str, status: int) -> None:
    assert ask(guard, "POST", "/graphql", json={"query": query, "variables": {}}).status_code == status


def test_a_websocket_is_refused(guard: Guard, behind: Behind, tmp_path: Path) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/ws", "headers": [(b"host", HOST.encode())], "client": ("127.0.0.1", 1)}
    asyncio.run(guard(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"] and behind.requests == []
    assert entries(tmp_path)[0].what == "WEBSOCKET /ws"


def test_a_refused_request_is_in_the_audit_log(guard: Guard, tmp_path: Path) -> None:
    path = "/ajax-api/3.0/mlflow/assistant/message"
    ask(guard, "POST", path, json={}, auth=("ada", "her long password"))
    ask(guard, "POST", path, json={}, auth=("ada", "not her password"))
    ask(guard, "GET", "/%1b%5b31mred%0a" + "x" * 5000)
    first, second, third = entries(tmp_path)
    assert (first.who, first.action, first.what) == ("ada", "mlflow.refused", f"POST {path}")
    assert first.address == "127.0.0.1" and first.request and "run programs" in first.reason
    assert second.who == NOBODY, "a name without its password proves nothing"
    assert third.what.startswith(r"GET /\x1b[31mred\nxxx") and len(third.what) < 300


def test_refused_requests_cannot_fill_the_disk(tmp_path: Path) -> None:
    now = [0.0]
    refusals, verified = Refusals(AuditLog(tmp_path), lambda: now[0]), []

    def who() -> str:
        verified.append(1)
        return "ada"

    for _ in range(BURST + 1000):
        refusals.write("GET /x", "nobody needs it", "127.0.0.1", who)
    assert len(entries(tmp_path)) == BURST == len(verified), "nor is a password checked for what is not written"
    now[0] += SECONDS_EACH
    for _ in range(100):
        refusals.write("GET /x", "nobody needs it", "127.0.0.1", who)
    assert len(entries(tmp_path)) == BURST + 1
    assert "1000 more were refused since the entry before" in entries(tmp_path)[-1].reason


def test_what_mlflows_page_asks_by_itself_is_refused_without_an_entry(guard: Guard, tmp_path: Path) -> None:
    assert ask(guard, "GET", "/ajax-api/3.0/mlflow/assistant/config").status_code == 403
    assert ask(guard, "GET", "/ajax-api/3.0/mlflow/assistant/providers").status_code == 403
    assert entries(tmp_path) == []


def test_a_log_that_takes_no_entry_opens_no_door(guard: Guard, behind: Behind, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("broken\n")
    assert ask(guard, "POST", "/ajax-api/3.0/mlflow/assistant/message", json={}).status_code == 403
    assert behind.requests == []


def test_without_accounts_webhooks_are_for_the_installation_alone(behind: Behind, tmp_path: Path) -> None:
    guard = Guard(behind, frozenset({HOST}), Refusals(AuditLog(tmp_path)), None, own_key="the key on file")
    path = "/api/2.0/mlflow/webhooks"
    for account in (None, ("admin", "guessed"), ("the key on file", "")):
        assert ask(guard, "GET", path, auth=account).status_code == 403
    assert behind.requests == []
    assert ask(guard, "GET", path, auth=("admin", "the key on file")).status_code == 200


FILE = "/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts/report.html"


def test_a_file_has_a_largest_size(behind: Behind, tmp_path: Path) -> None:
    guard = Guard(behind, frozenset({HOST}), Refusals(AuditLog(tmp_path)), None, largest_file=1000)
    assert ask(guard, "PUT", FILE, content=bytes(1000)).status_code == 200
    refused = ask(guard, "PUT", FILE, content=bytes(1001))
    assert refused.status_code == 403 and "more than 1000 bytes" in refused.text
    assert [len(body) for _, _, body in behind.requests] == [1000]


def test_a_file_without_end_is_refused_while_it_arrives(behind: Behind, tmp_path: Path) -> None:
    guard = Guard(behind, frozenset({HOST}), Refusals(AuditLog(tmp_path)), None, largest_file=1000)
    received, sent = 0, []

    async def receive() -> Message:
        nonlocal received
        received += 300
        return {"type": "http.request", "body": bytes(300), "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", HOST.encode()), (b"transfer-encoding", b"chunked")]
    asyncio.run(
        guard(
            {"type": "http", "method": "PUT", "path": FILE, "raw_path": FILE.encode(), "headers": headers},
            receive,
            send,
        )
    )
    assert sent[0]["status"] == 403 and received == 1200 and behind.requests == []


def test_half_a_file_is_not_kept(guard: Guard, behind: Behind) -> None:
    parts: list[Message] = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return parts.pop(0)

    async def send(message: Message) -> None:
        pass

    headers = [(b"host", HOST.encode()), (b"content-length", b"8")]
    asyncio.run(
        guard(
            {"type": "http", "method": "PUT", "path": FILE, "raw_path": FILE.encode(), "headers": headers},
            receive,
            send,
        )
    )
    assert behind.requests == []


def test_files_of_clients_leave_room_on_the_disk(
    behind: Behind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(behind, frozenset({HOST}), Refusals(AuditLog(tmp_path)), None, files=tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=KEPT_FREE_BYTES + 10))
    assert ask(guard, "PUT", FILE, content=bytes(11)).status_code == 403
    assert ask(guard, "PUT", FILE, content=bytes(10)).status_code == 200


def test_what_a_role_does_not_allow_is_in_the_audit_log(guard: Guard, behind: Behind, tmp_path: Path) -> None:
    behind.status = 403
    alias = {"name": "toy", "alias": "production", "version": "1"}
    assert ask(guard, "POST", ALIAS, json=alias, auth=("ada", "her long password")).status_code == 403
    ask(guard, "POST", "/ajax-api/2.0/mlflow/runs/search", json={})
    ask(guard, "GET", "/api/2.0/mlflow/runs/get?run_id=1")
    (entry,) = entries(tmp_path)
    assert (entry.who, entry.action, entry.what) == ("ada", "mlflow.refused", f"POST {ALIAS}")
    assert "permissions" in entry.reason


def test_strangers_cannot_hide_what_a_role_does_not_allow(guard: Guard, behind: Behind, tmp_path: Path) -> None:
    behind.status = 403
    for _ in range(BURST + 5):
        ask(guard, "GET", "/signup")
    ask(guard, "DELETE", ALIAS, json={"name": "toy", "alias": "production"}, auth=("ada", "her long password"))
    assert [entry.who for entry in entries(tmp_path)] == [NOBODY] * BURST + ["ada"]
