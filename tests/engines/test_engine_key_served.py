"""Real engines, started as the fleet starts them, answer nobody without their key."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tasks.engines import EnginePlan, engine
from tasks.engines._guard.weighbridge_guard import KEY_VARIABLE
from tests.support.ports import free_port
from tests.support.tiny_gguf import write_release
from tests.support.waiting import wait_for
from weighbridge.health import answers
from weighbridge.home import project_root

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]
KEY = "a-key-of-the-engine"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
CLOSED = {
    "transformers": ("v1/chat/completions", "v1/models", "reset", "load_model", "docs"),
    "vllm": ("v1/chat/completions", "v1/models", "tokenize", "detokenize", "invocations", "docs", "version"),
}
INSTALLED = {"transformers": True, "vllm": (project_root() / ".vllm" / ".installed").exists()}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.skipif(not INSTALLED[name], reason="vLLM is not installed: make vllm"))
        for name in CLOSED
    ],
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Name and address of an engine that serves a tiny model."""
    name, folder, port = request.param, tmp_path_factory.mktemp(request.param), free_port()
    model = write_release(folder / "tiny")
    flags: dict[str, str | int | float | bool] = {"enforce-eager": True} if name == "vllm" else {}
    plan = EnginePlan(engine=name, engine_version="1", model_name="tiny", context=64, concurrency=2, flags=flags)
    kind = engine(name)
    spec = kind.with_key_check(kind.launch(plan, model, "127.0.0.1", port))
    environment = {**os.environ, **spec.environment, KEY_VARIABLE: KEY, "VLLM_CPU_KVCACHE_SPACE": "1"}
    log = folder / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(spec.command, env=environment, cwd=folder, stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{url}/health"), lambda: log.read_text()[-3000:], seconds=600)
        yield name, url
    finally:
        server.terminate()
        server.wait(timeout=60)


def test_everything_but_the_health_check_is_closed(served: tuple[str, str]) -> None:
    name, url = served
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        for path in CLOSED[name]:
            for method in ("GET", "POST", "OPTIONS"):
                answer = client.request(method, f"/{path}", headers={"origin": "https://evil.example"})
                assert answer.status_code == 401, f"{method} {path}"
                assert "access-control-allow-origin" not in answer.headers
        assert client.get("/health").status_code == 200


def test_with_the_key_it_answers(served: tuple[str, str]) -> None:
    _, url = served
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=WITH_KEY, timeout=300, trust_env=False)
    assert answer.status_code == 200, answer.text
