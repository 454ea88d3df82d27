"""What reaches an engine and what never does, with a real Envoy."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable

import pytest

from tasks.engines import engine as engine_kind
from tasks.engines import engine_names
from tests.serve.gateway.gateway_support import FakeEngine, Running

Make = Callable[[], FakeEngine]
LISTS = {name: engine_kind(name).endpoints for name in engine_names()}


def raw(running: Running, method: str, path: str, body: bytes = b"{}") -> int:
    """Status of a request whose path is sent as it is."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.gateway.key()}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.gateway.settings.gateway_port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        return int(connection.makefile("rb").readline().split()[1])


def test_only_the_endpoints_of_the_lists_reach_an_engine(running: Running, engine: Make) -> None:
    fake = engine()
    running.gateway.set_line("listed", [fake.backend("1", 100)])
    body = json.dumps({"model": "listed"}).encode()
    passes = {operation.replace("{id}", "resp_1") for known in LISTS.values() for operation in known.passes}
    for operation in passes:
        method, path = operation.split(" ")
        fake.requests.clear()
        if method == "POST":
            assert raw(running, method, path, body) == raw(running, method, f"/listed{path}?a=b", body) == 200
            assert [got for got, _ in fake.requests] == [path, f"{path}?a=b"]
        else:
            # The stand-in's own answer.
            assert raw(running, method, f"/listed{path}") == 404
    fake.requests.clear()
    refused = {operation.replace("{id}", "resp_1") for known in LISTS.values() for operation in known.refused}
    for operation in sorted(refused):
        method, path = operation.split(" ")
        # `/chat/completions` below `/v1` is the endpoint that passes.
        below = () if f"{method} /v1{path}" in passes else ("/listed/v1", "/v1")
        for prefix in ("", "/listed", *below):
            assert raw(running, method, f"{prefix}{path}", body) in (404, 405), (operation, prefix)
    assert not fake.requests


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_no_spelling_leads_to_a_management_endpoint(running: Running, engine: Make, method: str) -> None:
    fake = engine()
    running.gateway.set_line("spelled", [fake.backend("1", 100)])
    names = ["load_lora_adapter", "../sleep", "%2e%2e/sleep", "..%2fsleep", "..;/sleep", "./..//collective_rpc"]
    names += ["load%5Flora_adapter", "%6coad_lora_adapter", "LOAD_LORA_ADAPTER", "load_lora_adapter/", "chat/../sleep"]
    names += ["chat/completions/../../load_lora_adapter", "chat/completions;/load_lora_adapter", "..%5csleep"]
    names += ["chat/completions%00/../load_lora_adapter", "chat/completions%2f..%2f..%2fload_lora_adapter"]
    names += ["chat/completions%23/../load_lora_adapter", "responses/..", "responses/%2e%2e/load_lora_adapter/cancel"]
    body = json.dumps({"model": "spelled"}).encode()
    for name, prefix in itertools.product(names, ("/v1/", "/spelled/v1/", "//v1//", "/v1/v1/", "/spelled//v1/./")):
        status = raw(running, method, f"{prefix}{name}", body)
        assert status in (400, 404, 405), (method, prefix, name, status)
    assert not fake.requests


def test_no_engine_passes_what_another_one_refuses() -> None:
    """All lists together pass, whichever engine a line has."""
    passed = {operation for endpoints in LISTS.values() for operation in endpoints.passes}
    passed |= {f"{method} {operation.split(' ')[1]}" for operation in passed for method in ("GET", "POST")}
    for name, endpoints in LISTS.items():
        assert not passed & set(endpoints.refused), name
    # Nor is one path counted in two ways.
    counted: dict[str, str] = {}
    for endpoints in LISTS.values():
        for operation, how in endpoints.passes.items():
            assert counted.setdefault(operation, how) == how


def test_a_wrong_method_and_a_form_are_told(running: Running, engine: Make) -> None:
    running.gateway.set_line("told", [engine().backend("1", 100)])
    put = running.client.put("/v1/chat/completions", headers={"authorization": f"Bearer {running.gateway.key()}"})
    assert (put.status_code, put.json()["error"]["code"]) == (405, "method_not_allowed")
    deleted = running.client.delete("/v1/models/told", headers={"authorization": f"Bearer {running.gateway.key()}"})
    assert deleted.status_code == 404  # not the model's description
    files, data = {"file": ("a.wav", b"RIFF", "audio/wav")}, {"model": "told"}
    asked = running.request("/v1/audio/transcriptions", content=None, files=files, data=data)
    assert (asked.status_code, asked.json()["error"]["code"]) == (400, "model_missing")
    assert "/LINE/v1/" in asked.json()["error"]["message"]
