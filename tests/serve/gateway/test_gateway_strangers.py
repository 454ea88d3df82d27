"""What the gateway does with requests of strangers: pages of other sites, odd paths, slow and greedy clients."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.serve.gateway import bootstrap
from tests.serve.gateway.gateway_support import FakeEngine, Running, make_gateway

Make = Callable[[], FakeEngine]
PATHS = ("/", "/v1/models", "/v1/models/strange", "/v1/chat/completions", "/strange/v1/chat/completions", "/metrics")
DISGUISED = (
    "/healthz/../v1/models",
    "/healthz/%2e%2e/v1/models",
    "//v1/models",
    "/healthz/",
    "/HEALTHZ",
    "/healthz%00",
)


def raw(running: Running, request: bytes, wait_seconds: float = 10.0) -> tuple[bytes, float]:
    """Send bytes as they are; what came back, and after how long the connection was closed or fell silent."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", running.gateway.settings.gateway_port)) as connection:
        connection.settimeout(wait_seconds)
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except TimeoutError:
            pass
    return answer, time.monotonic() - began


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_only_the_health_check_answers_without_a_key(running: Running, engine: Make) -> None:
    running.gateway.set_line("strange", [engine().backend("1", 100)])
    assert running.request("/healthz", key=None).json() == {"status": "ok"}
    for path in PATHS:
        for method in ("GET", "POST", "OPTIONS", "PUT", "DELETE", "HEAD"):
            assert running.client.request(method, path).status_code == 401, f"{method} {path}"


@pytest.mark.parametrize("path", DISGUISED)
def test_no_path_passes_for_the_health_check(running: Running, path: str) -> None:
    answer, _ = raw(running, f"GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n".encode())
    assert status(answer) in (400, 401)


def test_a_page_of_another_site_is_told_nothing(running: Running) -> None:
    asks = {"origin": "https://evil.example", "access-control-request-method": "POST", "host": "rebound.evil.example"}
    preflight = running.client.request("OPTIONS", "/v1/chat/completions", headers=asks)
    assert preflight.status_code == 401
    healthy = running.client.get("/healthz", headers=asks)
    for response in (preflight, healthy):
        assert not [name for name in response.headers if name.startswith("access-control-")]


def test_headers_that_pass_for_ours_do_not_reach_an_engine(running: Running, engine: Make) -> None:
    fake = engine()
    running.gateway.set_line("plain", [fake.backend("1", 100)])
    sent = {"x_weighbridge_client": "admin", "x-weighbridge-client": "admin", "x-envoy-retry-on": "5xx"}
    body = {"model": "plain", "messages": []}
    assert running.request("/v1/chat/completions", body, headers=sent).status_code == 200
    [(_, headers)] = fake.requests
    assert headers["x-weighbridge-client"] == "default"
    assert not {"x_weighbridge_client", "x-envoy-retry-on", "authorization"} & headers.keys()


def test_headers_without_end_are_refused(running: Running) -> None:
    long = running.client.get("/v1/models", headers={"x-long": "a" * 70_000})
    many = running.client.get("/v1/models", headers={f"x-{number}": "a" for number in range(150)})
    assert (long.status_code, many.status_code) == (431, 431)


@pytest.mark.server
def test_a_client_that_sends_slowly_is_cut_off(tmp_path: Path, engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "HEADERS_SECONDS", 1)
    monkeypatch.setattr(bootstrap, "REQUEST_SECONDS", 2)
    running = Running(make_gateway(tmp_path))
    try:
        running.start()
        fake = engine()
        fake.pause_seconds, fake.chunks = 1.0, 4
        running.gateway.set_line("slow", [fake.backend("1", 100)])
        key = running.gateway.key()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
        unfinished, seconds = raw(running, head.encode())
        assert status(unfinished) == 408 and seconds < 5
        body, seconds = raw(running, f'{head}content-type: application/json\r\ncontent-length: 99\r\n\r\n{{"a'.encode())
        assert status(body) == 408 and seconds < 6
        streamed = running.request("/v1/chat/completions", {"model": "slow", "stream": True})
        assert streamed.status_code == 200 and "[DONE]" in streamed.text, "a long answer is no fault"
        assert json.loads(body.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    finally:
        running.stop()
