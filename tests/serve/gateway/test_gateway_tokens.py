"""No way around a token limit, with a real Envoy: what is charged is what an engine computed, or an estimate of it."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tasks.serve.gateway import Limits
from tests.serve.gateway.gateway_support import FakeEngine, Running
from tests.serve.gateway.test_gateway_keys import log_of, no_script_failed, stream  # noqa: F401

Make = Callable[[], FakeEngine]

PROMPT = "".join(f"{number:05} " for number in range(3333))
"""About 5,000 tokens by the gateway's estimate."""


def limited(running: Running, fake: FakeEngine, line: str, tokens: int = 1000) -> str:
    running.gateway.set_line(line, [fake.backend("1", 100)])
    return running.gateway.add_key(line, limits=Limits(tokens_per_minute=tokens))


def wait_seconds(running: Running, line: str, key: str) -> int:
    """Seconds that the key's next request is refused for; 0 if it is answered."""
    answer = running.request("/v1/chat/completions", {"model": line}, key=key)
    return int(answer.headers.get("retry-after", 0))


@pytest.mark.parametrize("way", ["length", "chunked", "trailers", "gzip", "path"])
def test_a_prompt_is_charged_by_its_bytes(running: Running, engine: Make, way: str) -> None:
    line = f"upload-{way}"
    key = limited(running, engine(), line)
    body = json.dumps({"model": line, "stream": True, "prompt": PROMPT}).encode()
    path = f"/{line}//v1/./chat/completions?a=b" if way == "path" else "/v1/chat/completions"
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    connection = http.client.HTTPConnection("127.0.0.1", running.gateway.settings.gateway_port, timeout=10)
    if way == "trailers":
        connection.putrequest("POST", path)
        for name, value in {**headers, "transfer-encoding": "chunked", "trailer": "x-a"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(b"%x\r\n%s\r\n0\r\nx-a: 1\r\n\r\n" % (len(body), body))
    elif way == "gzip":
        connection.request("POST", path, gzip.compress(body), {**headers, "content-encoding": "gzip"})
    else:
        sent: Any = iter([body[:100], body[100:]]) if way == "chunked" else body
        connection.request("POST", path, sent, headers, encode_chunked=way == "chunked")
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    # 5,000 tokens at 1,000 a minute: four minutes of debt.
    assert 200 <= wait_seconds(running, line, key) <= 300


def test_a_client_that_leaves_before_the_answer_has_paid_for_its_prompt(running: Running, engine: Make) -> None:
    fake = engine()
    fake.wait_seconds = 1
    key = limited(running, fake, "leaver")
    body = json.dumps({"model": "leaver", "stream": True, "prompt": PROMPT}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.gateway.settings.gateway_port)) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(0.3)
    assert wait_seconds(running, "leaver", key) > 200


def test_a_failed_request_costs_no_tokens(running: Running, engine: Make) -> None:
    fake = engine()
    key = limited(running, fake, "failed")
    fake.stop()
    for _ in range(2):
        assert (
            running.request("/v1/chat/completions", {"model": "failed", "prompt": PROMPT}, key=key).status_code == 503
        )


MESSAGES: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 400, "cache_read_input_tokens": 100}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"input_tokens": 0, "output_tokens": 7}},
    {"type": "message_stop"},
]


def test_the_prompt_of_a_stream_of_messages_is_charged(running: Running, engine: Make) -> None:
    fake = engine()
    fake.stream_bytes = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in MESSAGES).encode()
    key = limited(running, fake, "anthropic", 100)
    answer = running.request("/v1/messages", {"model": "anthropic", "stream": True}, key=key)
    entry = log_of(running, answer)
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (500, 7)
    # 507 of 100.
    assert 200 <= wait_seconds(running, "anthropic", key) <= 250


def test_no_answer_is_free(running: Running, engine: Make) -> None:
    plain, packing = engine(), engine()
    plain.usage, plain.padding, packing.packs = None, "y" * 400, True
    for line, fake in (("untold-answer", plain), ("packed-answer", packing)):
        key = limited(running, fake, line, 60)
        answer = running.request("/v1/chat/completions", {"model": line}, key=key, headers={"accept-encoding": "gzip"})
        assert answer.json()["choices"][0]["message"]["content"].startswith("hello")
        # Engines that pack what clients ask for are not asked.
        assert "accept-encoding" not in fake.requests[0][1]
        assert wait_seconds(running, line, key) > 20, line


def test_counting_tokens_costs_a_request_and_no_tokens(running: Running, engine: Make) -> None:
    key = limited(running, engine(), "counter", 10)
    body = {"model": "counter", "messages": [{"role": "user", "content": PROMPT}]}
    statuses = [running.request("/v1/messages/count_tokens", body, key=key).status_code for _ in range(3)]
    assert statuses == [200, 200, 200]


def test_an_unknown_encoding_is_named(running: Running, engine: Make) -> None:
    limited(running, engine(), "encoded")
    headers = {"content-type": "application/json", "content-encoding": "br"}
    refused = running.request("/encoded/v1/completions", content=b"...", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_encoding")


def test_the_headers_of_an_answer_tell_what_is_left(running: Running, engine: Make) -> None:
    running.gateway.set_line("told", [engine().backend("1", 100)])
    key = running.gateway.add_key("told", limits=Limits(requests_per_minute=2, tokens_per_minute=1000))
    answers = [running.request("/v1/chat/completions", {"model": "told"}, key=key) for _ in range(3)]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert ([answer.status_code for answer in answers], left) == ([200, 200, 429], ["1", "0", "0"])
    assert {answer.headers["x-ratelimit-limit-tokens"] for answer in answers} == {"1000"}
    assert int(answers[1].headers["x-ratelimit-remaining-tokens"]) < 1000
    assert answers[2].headers["x-ratelimit-reset-requests"].endswith("s")


def test_a_key_may_be_sent_as_anthropics_clients_do(running: Running, engine: Make) -> None:
    fake = engine()
    running.gateway.set_line("by-header", [fake.backend("1", 100)])
    headers = {"x-api-key": running.gateway.key()}
    answer = running.request("/v1/messages", {"model": "by-header"}, key=None, headers=headers)
    assert answer.status_code == 200
    assert not {"x-api-key", "authorization"} & set(fake.requests[0][1])
    assert (
        running.request("/v1/messages", {"model": "by-header"}, key=None, headers={"x-api-key": "x"}).status_code == 401
    )
