"""Weights, sticky routing and mirrors, with a real Envoy."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tasks.serve.gateway import Limits, Mirror, mirror_log
from tests.serve.gateway.gateway_support import FakeEngine, Running
from tests.support.waiting import wait_for
from weighbridge.errors import GatewayFailed

Make = Callable[[], FakeEngine]


def versions(running: Running, line: str, name: str, field: str, key: str = "") -> list[str]:
    """Versions that answer five requests of one conversation, named in a header or in the body."""
    body: dict[str, object] = {"model": line, "messages": []}
    headers = {field: name} if field.startswith("x-") else {}
    if not headers and field:
        body[field] = name
    answers = [running.request("/v1/chat/completions", body, headers=headers, key=key) for _ in range(5)]
    return [answer.headers["x-weighbridge-version"] for answer in answers]


@pytest.mark.parametrize("field", ["x-conversation-id", "prompt_cache_key", "user"])
def test_a_conversation_is_sticky_to_a_version(running: Running, engine: Make, field: str) -> None:
    gateway, line = running.gateway, f"talk-{field.replace('_', '-')}"
    gateway.set_line(line, [engine().backend("1", 50), engine().backend("2", 50)])
    gateway.set_sticky(line, "conversation")
    met = {}
    for number in range(12):
        (met[number],) = set(versions(running, line, f"talk {number}", field))
    # Twelve throws of a fair coin agree once in 2,048 times, and hashes of these names are always the same.
    assert set(met.values()) == {"1", "2"}
    # A larger weight of the new version keeps its conversations.
    gateway.shift(line, {"1": 20, "2": 80})
    after = {number: set(versions(running, line, f"talk {number}", field)) for number in met}
    assert all(after[number] == {"2"} for number in met if met[number] == "2")
    assert gateway.routes().line(line).sticky_by == "conversation"


def test_a_conversation_name_cannot_inject_headers(running: Running, engine: Make) -> None:
    fake = engine()
    running.gateway.set_line("smuggled", [fake.backend("1", 100)])
    for name in ("a\r\nx-evil: 1\r\n\r\nGET / HTTP/1.1", "ü\0", "x" * 2**20, "", 7.5):
        answer = running.request("/v1/chat/completions", {"model": "smuggled", "user": name})
        assert answer.status_code == 200
    assert len(fake.requests) == 5
    for _, headers in fake.requests:
        assert "x-evil" not in headers
        assert len(headers.get("x-conversation-id", "")) <= 256


def test_a_key_is_sticky_to_a_version(running: Running, engine: Make) -> None:
    gateway = running.gateway
    gateway.set_line("keyed", [engine().backend("1", 50), engine().backend("2", 50)])
    gateway.set_sticky("keyed", "key")
    met = [versions(running, "keyed", "", "", gateway.add_key(f"keyed-{number}")) for number in range(12)]
    assert all(len(set(each)) == 1 for each in met)
    assert {each[0] for each in met} == {"1", "2"}


def test_a_key_is_sticky_where_no_body_is_read(running: Running, engine: Make) -> None:
    gateway = running.gateway
    gateway.set_line("spoken", [engine().backend("1", 50), engine().backend("2", 50)])
    gateway.set_sticky("spoken", "key")
    keys = [gateway.add_key(f"spoken-{number}") for number in range(6)]
    sent = {"content": b"{}", "headers": {"content-type": "audio/wav"}}
    for key in keys:
        answers = [running.request("/spoken/v1/audio/transcriptions", key=key, **sent) for _ in range(8)]
        assert len({answer.headers["x-weighbridge-version"] for answer in answers}) == 1


def test_responses_of_a_mirror_are_discarded(running: Running, engine: Make) -> None:
    gateway, serves, mirrored = running.gateway, engine(), engine()
    gateway.set_line("mirrored", [serves.backend("1", 100), mirrored.backend("2", 0)])
    gateway.set_mirror("mirrored", Mirror(version="2", per_cent=100))
    mirrored.dies = True
    answers = [running.chat("mirrored") for _ in range(10)]
    answers += [running.request("/v1/chat/completions", {"model": "mirrored", "stream": True}) for _ in range(10)]
    assert {answer.headers["x-weighbridge-version"] for answer in answers} == {"1"}
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers[10:])
    wait_for(lambda: len(mirrored.requests) == 20, seconds=15)
    assert len(serves.requests) == 20
    # Both engines get the client's name and no key.
    assert all("authorization" not in headers for _, headers in mirrored.requests)
    log = gateway.settings.logs_folder / "gateway-access.log"
    wait_for(lambda: answers[-1].headers["x-request-id"] in log.read_text(), seconds=15)
    entries = [entry for entry in map(json.loads, log.read_text().splitlines()) if entry["line"] == "mirrored"]
    assert [entry["version"] for entry in entries] == ["1"] * 20
    assert ("mirrored", "2") not in gateway.client_counts()
    assert gateway.client_counts()["mirrored", "1"].answers == 20


def test_responses_of_a_mirror_are_logged(running: Running, engine: Make) -> None:
    gateway, serves, mirrored = running.gateway, engine(), engine()
    gateway.set_line("logged", [serves.backend("1", 100), mirrored.backend("2", 0)])
    gateway.set_mirror("logged", Mirror(version="2", per_cent=100))
    mirrored.wait_seconds, mirrored.chunks = 0.3, 5
    forged = {"x-weighbridge-shadow": "logged@1"}
    whole = running.request("/v1/chat/completions", {"model": "logged", "messages": []}, headers=forged)
    # Here the path names the line, and the body another model.
    stream = {"model": "base", "stream": True, "stream_options": {"include_usage": True}}
    streamed = running.request("/logged/v1/chat/completions", stream)
    log = mirror_log(gateway.settings)
    wait_for(lambda: log.is_file() and streamed.headers["x-request-id"] in log.read_text(), seconds=15)
    first, second = [entry for entry in map(json.loads, log.read_text().splitlines()) if entry["line"] == "logged"]
    assert first["request_id"] == whole.headers["x-request-id"]
    assert (first["version"], first["cluster"], first["client"]) == ("2", "logged@2", "default")
    assert (first["status"], first["prompt_tokens"], first["completion_tokens"]) == (200, 5, 7)
    assert (second["version"], second["path"], second["completion_tokens"]) == ("2", "/v1/chat/completions", 7)
    # A stream's headers arrive at once, its first event later.
    assert second["first_token_ms"] >= 300 > second["first_byte_ms"]
    assert all("x-weighbridge-shadow" not in headers for _, headers in (*mirrored.requests, *serves.requests))
    mirrored.stop()
    running.chat("logged")
    wait_for(lambda: sum('"logged"' in entry for entry in log.read_text().splitlines()) == 3, seconds=15)
    last = [entry for entry in map(json.loads, log.read_text().splitlines()) if entry["line"] == "logged"][-1]
    assert (last["version"], last["status"]) == ("2", 503)


def test_a_mirror_that_hangs_or_dies_does_not_affect_clients(running: Running, engine: Make) -> None:
    gateway, serves, mirrored = running.gateway, engine(), engine()
    gateway.set_line("hung", [serves.backend("1", 100), mirrored.backend("2", 0)])
    gateway.set_mirror("hung", Mirror(version="2", per_cent=100))
    mirrored.wait_seconds = 20

    def slowest() -> float:
        stream = {"model": "hung", "stream": True}
        answers = [running.request("/v1/chat/completions", stream) for _ in range(20)]
        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
        return max(answer.elapsed.total_seconds() for answer in answers)

    assert slowest() < 5
    assert gateway.active_requests("hung", "2") == 20
    mirrored.stop()
    assert slowest() < 5
    gateway.set_mirror("hung", None)
    count = len(serves.requests)
    assert slowest() < 5
    assert len(serves.requests) == count + 20


def test_a_mirror_is_removed_with_its_version_only(running: Running, engine: Make) -> None:
    gateway, fakes = running.gateway, (engine(), engine())
    gateway.set_line("kept", [fakes[0].backend("1", 100), fakes[1].backend("2", 0)])
    with pytest.raises(GatewayFailed, match="no version 3"):
        gateway.set_mirror("kept", Mirror(version="3", per_cent=5))
    gateway.set_mirror("kept", Mirror(version="2", per_cent=5))
    gateway.set_sticky("kept", "key")
    gateway.set_limits("kept", Limits(requests_per_minute=1000))
    gateway.shift("kept", {"1": 90, "2": 10})
    route = gateway.routes().line("kept")
    assert (route.mirror, route.sticky_by) == (Mirror(version="2", per_cent=5), "key")
    assert route.limits == Limits(requests_per_minute=1000)
    gateway.shift("kept", {"1": 100})
    gateway.remove_backend("kept", "2")
    assert gateway.routes().line("kept").mirror is None
    assert running.chat("kept").status_code == 200


def test_a_cut_stream_is_not_retried(running: Running, engine: Make) -> None:
    fake, other = engine(), engine()
    fake.dies = True
    running.gateway.set_line("cut", [fake.backend("1", 100), other.backend("2", 0)])
    received = b""
    headers = {"authorization": f"Bearer {running.gateway.key()}"}
    body = {"model": "cut", "stream": True}
    with (
        pytest.raises(Exception, match="closed"),
        running.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        for part in answer.iter_raw():
            received += part
    # The part before the cut arrived once, and no second answer was appended.
    assert [received.count(b"w%d " % number) for number in range(3)] == [1, 1, 1]
    assert b"[DONE]" not in received
    assert (len(fake.requests), len(other.requests)) == (1, 0)
