"""Strange requests and too many connections, with a real Envoy: refusals are JSON, and the admin path stays open."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.serve.gateway import Gateway
from tests.serve.gateway.gateway_support import FakeEngine, Running
from tests.support.ports import free_port
from weighbridge.settings import Settings

Make = Callable[[], FakeEngine]


def send(running: Running, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Send a request as it is; return status, headers and body of the answer."""
    with socket.create_connection(("127.0.0.1", running.gateway.settings.gateway_port), timeout=15) as connection:
        connection.sendall(head.replace("KEY", running.gateway.key()).encode() + body)
        answer = connection.makefile("rb")
        status = int(answer.readline().split()[1])
        headers = {}
        while line := answer.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        rest = answer.read(int(headers["content-length"])) if "content-length" in headers else answer.read()
        return status, headers, rest


HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer KEY\r\n"
POST = f"{HEAD}content-type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"{POST}x-big: {'a' * 70_000}\r\ncontent-length: 0\r\n\r\n", 431),
        (POST + "".join(f"x-h{number}: 1\r\n" for number in range(120)) + "content-length: 0\r\n\r\n", 431),
        (f"{POST}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (f"{POST}transfer-encoding: chunked, identity\r\n\r\n", 501),
        (POST.replace("host: x\r\n", "") + "content-length: 0\r\n\r\n", 400),
        (POST.replace("/v1/chat", "/v1/..%2f..%2fchat") + "content-length: 0\r\n\r\n", 400),
        (POST.replace("POST", "GET").replace("chat/completions", "realtime") + "connection: upgrade\r\n"
         "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 403),
        ("no request at all\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_every_refusal_is_json(running: Running, head: str, status: int) -> None:
    answered, headers, body = send(running, head)
    assert (answered, headers.get("content-type")) == (status, "application/json"), body
    assert set(json.loads(body)["error"]) == {"message", "type", "code", "param"}


def test_an_answer_that_is_too_large_is_an_error_in_json(running: Running, engine: Make) -> None:
    fake = engine()
    fake.padding = "x" * 70_000_000
    running.gateway.set_line("large", [fake.backend("1", 100)])
    answer = running.chat("large")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
    assert answer.json()["error"]["type"] == "server_error"


def test_http_1_0_is_answered(running: Running, engine: Make) -> None:
    running.gateway.set_line("old", [engine().backend("1", 100)])
    body = b'{"model": "old"}'
    head = POST.replace("HTTP/1.1\r\nhost: x\r\n", "HTTP/1.0\r\n") + f"content-length: {len(body)}\r\n\r\n"
    status, _, answer = send(running, head, body)
    assert status == 200 and json.loads(answer)["choices"]


@pytest.mark.server
def test_idle_connections_lock_nobody_out_of_the_admin_path(tmp_path: Path, engine: Make) -> None:
    running = Running(Gateway(Settings(home=tmp_path, gateway_port=free_port(), gateway_connections=20)))
    try:
        running.start()
        fake = engine()
        running.gateway.set_line("crowded", [fake.backend("1", 100)])
        assert running.chat("crowded").status_code == 200
        idle = [socket.create_connection(("127.0.0.1", running.gateway.settings.gateway_port)) for _ in range(60)]
        time.sleep(0.3)
        # One who is connected is answered, and weights can be moved.
        assert running.chat("crowded").status_code == 200
        running.gateway.set_line("crowded", [fake.backend("2", 100)])
        assert running.chat("crowded").headers["x-weighbridge-version"] == "2"
        closed = 0
        for connection in idle:
            connection.settimeout(0.05)
            try:
                closed += connection.recv(1) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                closed += 1
            connection.close()
        assert closed >= 35
        time.sleep(0.3)
        other = Running(running.gateway)
        assert other.chat("crowded").status_code == 200
        other.client.close()
    finally:
        running.stop()
