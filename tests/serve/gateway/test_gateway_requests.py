"""The gateway as clients see it, with a real Envoy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tasks.serve.gateway import LineRoute
from tests.serve.gateway.gateway_support import FakeEngine, Running, ask_admin
from tests.support.waiting import wait_for
from weighbridge.errors import GatewayFailed

Make = Callable[[], FakeEngine]


def error(response: httpx.Response) -> dict[str, str]:
    assert response.headers["content-type"] == "application/json"
    return dict(response.json()["error"])


@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_a_key_only_health_answers(running: Running, key: str | None) -> None:
    refused = running.request("/v1/models", key=key)
    assert refused.status_code == 401
    assert error(refused)["code"] == "invalid_api_key"
    assert running.request("/healthz", key=key).json() == {"status": "ok"}


def test_the_official_client_chats_streams_and_lists(running: Running, engine: Make) -> None:
    running.gateway.set_line("official", [engine().backend("1", 100)])
    client = openai.OpenAI(base_url=f"{running.gateway.settings.gateway_url}/v1", api_key=running.gateway.key())
    answer = client.chat.completions.create(model="official", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "hello"
    stream = client.chat.completions.create(model="official", messages=[{"role": "user", "content": "hi"}], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "w0 w1 w2 "
    written = client.completions.create(model="official", prompt="hi")
    assert written.choices[0].text == "hello"
    assert written.usage is not None and written.usage.total_tokens == 12
    vectors = client.embeddings.create(model="official", input="hi", encoding_format="float")
    assert vectors.data[0].embedding == [0.5, -0.25]
    assert "official" in [model.id for model in client.models.list()]
    assert client.models.retrieve("official").id == "official"
    with pytest.raises(openai.NotFoundError, match="official") as caught:
        client.chat.completions.create(model="gpt-none", messages=[])
    assert caught.value.code == "model_not_found"


def test_the_official_client_raises_its_own_errors(running: Running, engine: Make) -> None:
    running.gateway.set_line("strict", [engine().backend("1", 100)])
    base = f"{running.gateway.settings.gateway_url}/v1"
    client = openai.OpenAI(base_url=base, api_key=running.gateway.key(), max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="unknown API key"):
        client.with_options(api_key="wb-wrong").models.list()
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model="strict", prompt="x" * 17 * 2**20)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    with pytest.raises(openai.BadRequestError, match="name a model"):
        client.post("/completions", body={"prompt": "x"}, cast_to=object)


def test_the_body_or_the_path_names_the_line(running: Running, engine: Make) -> None:
    # Envoy's YAML parser reads these as booleans.
    first, second = engine(), engine()
    running.gateway.set_line("n", [first.backend("4", 100)])
    running.gateway.set_line("y", [second.backend("5", 100)])
    by_body = running.chat("n")
    assert (by_body.status_code, by_body.headers["x-weighbridge-version"]) == (200, "4")
    assert by_body.headers["x-weighbridge-digest"].endswith("04")
    by_path = running.request("/y/v1/completions?a=b", {"model": "n", "prompt": ""})
    assert by_path.headers["x-weighbridge-version"] == "5"
    assert [path for path, _ in first.requests] == ["/v1/chat/completions"]
    assert [path for path, _ in second.requests] == ["/v1/completions?a=b"]
    assert [model["id"] for model in running.request("/y/v1/models").json()["data"]] == ["y"]


def test_engines_get_the_client_s_name_but_not_its_key(running: Running, engine: Make) -> None:
    fake = engine()
    running.gateway.set_line("private", [fake.backend("1", 100)])
    key = running.gateway.add_key("alice")
    claims = {"x-weighbridge-client": "mallory", "x-envoy-retry-on": "5xx"}
    assert running.request("/private/v1/completions", {}, key=key, headers=claims).status_code == 200
    headers = fake.requests[0][1]
    assert headers["x-weighbridge-client"] == "alice"
    assert "authorization" not in headers
    assert "x-envoy-retry-on" not in headers


@pytest.mark.parametrize(
    ("path", "sent", "status", "code"),
    [
        ("/v1/chat/completions", {"json": {"model": "absent"}}, 404, "model_not_found"),
        ("/v1/chat/completions", {"json": {"model": 3}}, 404, "model_not_found"),
        ("/v1/chat/completions", {"json": {"prompt": ""}}, 400, "model_missing"),
        ("/v1/chat/completions", {"content": b'{"model'}, 400, "invalid_json"),
        ("/v1/chat/completions", {"json": {"model": "refusing", "messages": "hi"}}, 400, "invalid_type"),
        ("/refusing/v1/chat/completions", {"json": {"messages": 3}}, 400, "invalid_type"),
        ("/v1/models/absent", {}, 404, "model_not_found"),
        ("/absent/v1/chat/completions", {"json": {}}, 404, "not_found"),
        ("/absent/v1/chat/completions", {"content": bytes(17 * 2**20)}, 413, "request_too_large"),
        # The engine's health path, and any other path outside /v1/, is not exposed.
        ("/refusing/health", {}, 404, "not_found"),
    ],
)
def test_refusals_have_the_format_of_openai(
    running: Running, engine: Make, path: str, sent: dict[str, Any], status: int, code: str
) -> None:
    running.gateway.set_line("refusing", [engine().backend("1", 100)])
    headers = {"content-type": "application/json"}
    refused = running.request(path, headers=headers, **sent)
    assert (refused.status_code, error(refused)["code"]) == (status, code)
    if code == "model_not_found":
        assert "refusing" in error(refused)["message"]


def test_a_line_of_a_hundred_models_can_be_listed(running: Running) -> None:
    # Larger than Envoy's default limit of a direct response.
    names = [f"many-{number:03}-{'x' * 30}" for number in range(100)]
    gateway = running.gateway
    before = gateway.routes()
    gateway._file.save(before.model_copy(update={"lines": tuple(LineRoute(line=name) for name in names)}))
    try:
        gateway.set_line("many", [])
        listed = [model["id"] for model in running.request("/v1/models").json()["data"]]
        assert listed == ["many", *names]
        refused = running.chat(names[0])
        assert (refused.status_code, error(refused)["code"]) == (503, "model_unavailable")
    finally:
        gateway._file.save(before)


def test_traffic_follows_the_weights(running: Running, engine: Make) -> None:
    gateway = running.gateway
    gateway.set_line("shares", [engine().backend("1", 100), engine().backend("2", 0)])

    def versions(requests: int) -> list[str]:
        answers = [running.chat("shares") for _ in range(requests)]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.headers["x-weighbridge-version"] for answer in answers]

    assert set(versions(50)) == {"1"}
    gateway.shift("shares", {"1": 50, "2": 50})
    # 200 throws of a fair coin fall outside 60…140 once in 10^8 times.
    assert 60 <= versions(200).count("2") <= 140
    gateway.shift("shares", {"2": 100})
    assert set(versions(50)) == {"2"}
    first, second = gateway.counters("shares", "1"), gateway.counters("shares", "2")
    assert first.requests + second.requests == 300
    assert first.errors_5xx == second.errors_5xx == first.active == 0
    assert first.healthy and second.healthy


def test_an_unhealthy_engine_gets_503_at_once_and_recovers(running: Running, engine: Make) -> None:
    gateway, fake = running.gateway, engine()
    gateway.set_line("sick", [fake.backend("1", 100)])
    fake.health_status = 500
    wait_for(lambda: not gateway.counters("sick", "1").healthy, seconds=15)
    refused = running.chat("sick")
    assert (refused.status_code, error(refused)["code"]) == (503, "model_unavailable")
    assert refused.headers["x-weighbridge-version"] == "1"
    assert gateway.counters("sick", "1").errors_5xx == 1
    fake.health_status = 200
    wait_for(lambda: gateway.counters("sick", "1").healthy, seconds=15)
    assert running.chat("sick").status_code == 200


def test_the_log_has_client_and_request_but_no_key(running: Running, engine: Make) -> None:
    gateway = running.gateway
    gateway.set_line("logged", [engine().backend("9", 100)])
    response = running.request(f"/logged/v1/completions?key={gateway.key()}", {})
    log = gateway.settings.logs_folder / "gateway-access.log"
    wait_for(lambda: response.headers["x-request-id"] in log.read_text(), seconds=15)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    entry = next(entry for entry in entries if entry["request_id"] == response.headers["x-request-id"])
    expected = {"line": "logged", "version": "9", "cluster": "logged@9", "client": "default", "status": 200}
    assert {name: entry[name] for name in expected} == expected
    assert entry["path"] == "/v1/completions"
    assert entry["duration_ms"] >= 0 and entry["bytes_sent"] > 0
    assert gateway.key() not in log.read_text()


def test_prometheus_statistics_are_served(running: Running, engine: Make) -> None:
    running.gateway.set_line("measured", [engine().backend("1", 100)])
    running.chat("measured")
    text = ask_admin(running.gateway, "/stats/prometheus").text
    assert 'envoy_cluster_upstream_rq_completed{envoy_cluster_name="measured@1"} 1' in text


def test_counts_of_an_unknown_backend_are_refused(running: Running) -> None:
    with pytest.raises(GatewayFailed, match="does not run ghost@1"):
        running.gateway.counters("ghost", "1")
