"""API keys and rate limits, with a real Envoy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.serve.gateway import Limits
from tasks.serve.gateway.keys import Keys, record_of
from tests.serve.gateway.gateway_support import FakeEngine, Running
from tests.support.waiting import wait_for

Make = Callable[[], FakeEngine]
USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture(autouse=True)
def no_script_failed(running: Running) -> Iterator[None]:
    """Envoy lets requests pass when a Lua script fails, so its log must have no such failure."""
    yield
    assert "script log" not in running.envoy_log.read_text()


def stream(running: Running, model: str, key: str, **more: object) -> httpx.Response:
    return running.request("/v1/chat/completions", {"model": model, "stream": True, **more}, key=key)


def log_of(running: Running, answer: httpx.Response) -> dict[str, Any]:
    log = running.gateway.settings.logs_folder / "gateway-access.log"
    wait_for(lambda: answer.headers["x-request-id"] in log.read_text(), seconds=15)
    return next(
        entry
        for entry in map(json.loads, log.read_text().splitlines())
        if entry["request_id"] == answer.headers["x-request-id"]
    )


def test_a_key_works_from_creation_to_removal(running: Running) -> None:
    key = running.gateway.add_key("guest")
    assert running.request("/v1/models", key=key).status_code == 200
    running.gateway.remove_key("guest")
    refused = running.request("/v1/models", key=key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


def test_an_expired_key_is_refused_within_a_second(running: Running) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=2)
    key = running.gateway.add_key("temp", ends)
    before = running.request("/v1/models", key=key).status_code
    assert before == 200 or datetime.now(UTC) >= ends
    wait_for(lambda: datetime.now(UTC) >= ends + timedelta(seconds=1), seconds=15)
    refused = running.request("/v1/models", key=key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "expired" in refused.json()["error"]["message"]


@pytest.mark.parametrize("header", ["Bearer", "Basic wb-x", "wb-x", f"Bearer {'x' * 600}", "Bearer a b"])
def test_headers_without_a_valid_key_are_refused(running: Running, header: str) -> None:
    assert running.request("/v1/models", key=None, headers={"authorization": header}).status_code == 401


# SHA-256 is implemented in Lua: test every padding length, and more than one block.
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200))
def test_the_gateway_hashes_as_python_does(running: Running, key: str) -> None:
    gateway = running.gateway
    keys = gateway.keys()
    gateway._keys.save(Keys({**keys.root, "odd": record_of(key)}))
    try:
        gateway.bootstrap()
        assert running.request("/v1/models", key=key).status_code == 200
        assert running.request("/v1/models", key=f"{key}x").status_code == 401
    finally:
        gateway._keys.save(keys)


def test_requests_beyond_a_key_s_limit_get_429_with_retry_after(running: Running, engine: Make) -> None:
    fake = engine()
    running.gateway.set_line("rationed", [fake.backend("1", 100)])
    key = running.gateway.add_key("hasty", limits=Limits(requests_per_minute=2))
    answers = [running.request("/v1/chat/completions", {"model": "rationed"}, key=key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    refused = answers[2]
    assert (refused.json()["error"]["code"], refused.json()["error"]["type"]) == (
        "rate_limit_exceeded",
        "rate_limit_error",
    )
    # With two requests a minute, one is allowed again after half a minute.
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert len(fake.requests) == 2
    # Other clients are not limited, and a change of routes resets no bucket.
    assert running.chat("rationed").status_code == 200
    running.gateway.set_line("rationed", [fake.backend("1", 100), fake.backend("2", 0)])
    assert running.request("/v1/chat/completions", {"model": "rationed"}, key=key).status_code == 429
    client = openai.OpenAI(base_url=f"{running.gateway.settings.gateway_url}/v1", api_key=key, max_retries=0)
    with pytest.raises(openai.RateLimitError, match="2 requests a minute"):
        client.chat.completions.create(model="rationed", messages=[])


def test_a_line_s_limit_applies_to_clients_without_their_own(running: Running, engine: Make) -> None:
    gateway = running.gateway
    gateway.set_line("shared", [engine().backend("1", 100)])
    gateway.set_limits("shared", Limits(requests_per_minute=1))
    first, second = gateway.add_key("one"), gateway.add_key("two")
    own = gateway.add_key("own", limits=Limits(requests_per_minute=3))

    def statuses(key: str, count: int) -> list[int]:
        return [running.request("/shared/v1/completions", {}, key=key).status_code for _ in range(count)]

    assert statuses(first, 2) == [200, 429]
    assert statuses(second, 2) == [200, 429]
    assert statuses(own, 4) == [200, 200, 200, 429]


@pytest.mark.parametrize("options", [{}, {"stream": True, **USAGE}])
def test_tokens_are_charged_as_the_engine_counts_them(
    running: Running, engine: Make, options: dict[str, object]
) -> None:
    name = "counted-stream" if options else "counted"
    running.gateway.set_line(name, [engine().backend("1", 100)])
    key = running.gateway.add_key(name, limits=Limits(tokens_per_minute=20))
    # 12 tokens each: the second exceeds the minute's tokens by 4.
    answers = [running.request("/v1/chat/completions", {"model": name, **options}, key=key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert "20 tokens a minute" in answers[2].json()["error"]["message"]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 15
    assert [log_of(running, answer)["completion_tokens"] for answer in answers] == [7, 7, None]
    assert [log_of(running, answer)["prompt_tokens"] for answer in answers] == [5, 5, None]


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings", "responses"])
def test_the_log_has_the_tokens_of_an_answer(running: Running, engine: Make, path: str) -> None:
    running.gateway.set_line("costs", [engine().backend("1", 100)])
    entry = log_of(running, running.request(f"/v1/{path}", {"model": "costs", "input": "hi"}))
    assert (entry["prompt_tokens"], entry["completion_tokens"], entry["client"]) == (5, 7, "default")


@pytest.mark.parametrize("limits", [Limits(), Limits(tokens_per_minute=10**6)])
def test_a_streams_first_token_is_timed_and_not_its_head(running: Running, engine: Make, limits: Limits) -> None:
    fake = engine()
    fake.wait_seconds = 0.5
    running.gateway.set_line("timed", [fake.backend("1", 100)])
    key = running.gateway.add_key(f"timed-{limits.tokens_per_minute}", limits=limits)
    entry = log_of(running, stream(running, "timed", key))
    # Two clocks, each rounded to a millisecond.
    assert 450 <= entry["first_token_ms"] <= entry["duration_ms"] + 2
    assert entry["first_byte_ms"] < entry["first_token_ms"]
    whole = running.request("/v1/chat/completions", {"model": "timed"}, key=key)
    assert log_of(running, whole)["first_token_ms"] is None


def test_a_stream_without_usage_is_charged_by_its_events(running: Running, engine: Make) -> None:
    fake = engine()
    fake.chunks = 100
    running.gateway.set_line("untold", [fake.backend("1", 100)])
    key = running.gateway.add_key("untold", limits=Limits(tokens_per_minute=60))
    first = stream(running, "untold", key)
    assert first.text.endswith("data: [DONE]\n\n")
    assert log_of(running, first)["completion_tokens"] is None
    refused = stream(running, "untold", key)
    assert refused.status_code == 429
    # 100 events at 60 a minute: 40 seconds of debt, and those of the prompt.
    assert 30 <= int(refused.headers["retry-after"]) <= 80


def test_a_client_that_disconnects_is_charged_for_received_tokens(running: Running, engine: Make) -> None:
    fake = engine()
    fake.chunks = 200
    running.gateway.set_line("hung-up", [fake.backend("1", 100)])
    key = running.gateway.add_key("hung-up", limits=Limits(tokens_per_minute=30))
    fake.pause_seconds = 0.005
    body = {"model": "hung-up", "stream": True}
    headers = {"authorization": f"Bearer {key}"}
    with running.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        for count, _ in enumerate(answer.iter_lines()):
            if count > 100:
                break
    assert stream(running, "hung-up", key).status_code == 429


def test_answers_may_exceed_the_request_size_limit(running: Running, engine: Make) -> None:
    fake = engine()
    fake.padding = "x" * 20 * 2**20
    running.gateway.set_line("large", [fake.backend("1", 100)])
    answer = running.chat("large")
    assert (answer.status_code, len(answer.content) > 20 * 2**20) == (200, True)
    assert log_of(running, answer)["completion_tokens"] == 7
