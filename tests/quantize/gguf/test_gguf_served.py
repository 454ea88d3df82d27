"""llama.cpp's server loads a written file and answers requests; a healthy /health alone proves nothing."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tasks.engines import EnginePlan
from tasks.engines._guard.weighbridge_guard import KEY_VARIABLE
from tasks.engines.llama_cpp import Engine
from tests.support.ports import free_port
from tests.support.tiny_gguf import vocabulary

if TYPE_CHECKING:
    from tests.quantize.gguf.conftest import Made

pytestmark = pytest.mark.timeout(900)
CONTEXT = 64
KEY = "a-key-of-the-engine"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def url(q4_k_m: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the Q4_K_M one, started as the fleet starts it."""
    port = free_port()
    plan = EnginePlan(engine="llama_cpp", engine_version="1", model_name="tiny", context=CONTEXT, concurrency=4)
    spec = Engine().launch(plan, q4_k_m.folder, "127.0.0.1", port)
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            spec.command, env={**os.environ, **spec.environment, KEY_VARIABLE: KEY}, stdout=file, stderr=file
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(server, url, log)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
        time.sleep(0.1)
    pytest.fail(log.read_text()[-2000:])


def chat(url: str, text: str, **options: object) -> httpx.Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 8, **options}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=WITH_KEY, timeout=300)


def test_the_first_real_request_is_answered_with_log_probabilities(url: str) -> None:
    answer = chat(url, "the sea is blue", temperature=0, logprobs=True, top_logprobs=3)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert choice["message"]["content"]
    assert 1 <= len(tokens) <= 8, "random weights may end where they like"
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 3 for entry in tokens)


def test_the_model_is_named_after_the_line_and_counts_tokens(url: str) -> None:
    listed = httpx.get(f"{url}/v1/models", headers=WITH_KEY).json()["data"]
    assert [entry["id"] for entry in listed] == ["tiny"]
    assert "llamacpp:tokens_predicted_total" in httpx.get(f"{url}/metrics", headers=WITH_KEY).text


def test_tokens_are_those_of_the_release(url: str, q4_k_m: Made) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(q4_k_m.source)
    for text in ("hello world", "the  sea\n is blue é 🙂"):
        tokens = httpx.post(f"{url}/tokenize", json={"content": text}, headers=WITH_KEY).json()["tokens"]
        assert tokens == tokenizer.encode(text, add_special_tokens=False)


def test_requests_at_once_get_the_plans_context_each_and_no_more(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: chat(url, "hello world", max_tokens=20), range(4)))
    assert [entry.status_code for entry in answers] == [200] * 4
    long = chat(url, " ".join(["hello"] * 2 * 256))
    assert long.status_code == 400
    assert "context" in long.json()["error"]["message"]


@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/completions", "completion", "tokenize", "infill", "props"])
def test_nothing_is_computed_without_the_engines_key(url: str, path: str) -> None:
    for headers in ({}, {"Authorization": f"Bearer {KEY}x"}):
        assert httpx.post(f"{url}/{path}", json={"prompt": "hello"}, headers=headers).status_code == 401
    assert httpx.get(f"{url}/health").status_code == 200


def test_no_other_site_in_a_browser_may_ask_it(url: str) -> None:
    answer = httpx.get(f"{url}/v1/models", headers={"Origin": "https://elsewhere.example"})
    assert "*" not in answer.headers.get("access-control-allow-origin", "")
    assert answer.headers.get("access-control-allow-origin", "") != "https://elsewhere.example"


def test_the_vocabulary_is_whole(url: str) -> None:
    found = httpx.post(f"{url}/detokenize", json={"tokens": [vocabulary().index("▁blue")]}, headers=WITH_KEY).json()[
        "content"
    ]
    assert found.strip() == "blue"
