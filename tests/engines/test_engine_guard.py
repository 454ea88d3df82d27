"""Engines demand their key: the check itself, and each kind that has one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tasks.engines import EnginePlan, engine, engine_names
from tasks.engines._guard.weighbridge_guard import KEY_VARIABLE, RequireKey
from weighbridge.home import project_root

KEY = "a-key-of-the-engine"
VLLM = project_root() / ".vllm" / "bin" / "python"
SAYS_ITS_ARGUMENTS = "import sys\nprint(sys.argv[1:], __name__)\n"


def statuses(app: Any, requests: list[tuple[str, str, dict[str, str]]]) -> list[int]:
    """Statuses of an app's answers to requests: method, path and headers."""

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return [
                (await client.request(method, path, headers=headers)).status_code for method, path, headers in requests
            ]

    return asyncio.run(ask())


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def app() -> Starlette:
    paths = ("/health", "/metrics", "/v1/models", "/reset")
    methods = ["GET", "POST", "OPTIONS"]
    return Starlette(routes=[Route(path, lambda _: PlainTextResponse("ok"), methods=methods) for path in paths])


def test_only_the_key_opens_anything_but_the_health_check(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    refused = [
        ("POST", "/reset", {}),
        ("POST", "/health", {}),
        ("OPTIONS", "/v1/models", {"origin": "https://evil.example"}),
        ("GET", "/v1/models", bearer("another")),
        ("GET", "/v1/models", bearer("")),
        ("GET", "/v1/models", {"authorization": KEY}),
        ("GET", "/health/../v1/models", {}),
    ]
    passed = [("GET", "/health", {}), ("GET", "/metrics", {}), ("GET", "/v1/models", bearer(KEY))]
    found = statuses(RequireKey(app), [*refused, *passed])
    assert found == [401] * len(refused) + [200] * len(passed)


def test_two_keys_in_one_request_are_refused(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    sent: list[Any] = []
    header = (b"authorization", f"Bearer {KEY}".encode())
    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [header, header]}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(RequireKey(app)(scope, lambda: pytest.fail("read"), send))
    assert sent[0]["status"] == 401


def test_a_websocket_without_the_key_is_closed(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(RequireKey(app)({"type": "websocket", "path": "/v1/realtime", "headers": []}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_an_engine_that_was_started_without_a_key_stays_open(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert statuses(RequireKey(app), [("GET", "/v1/models", {})]) == [200]


def test_transformers_serve_demands_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.cli.serving import server

    from tasks.engines._transformers_serve import require_key

    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setattr(server, "build_server", server.build_server)  # restored after the test
    require_key()
    unloaded: list[bool] = []
    manager = SimpleNamespace(shutdown=lambda: unloaded.append(True), get_gen_models=list)
    state = SimpleNamespace(is_cb_alive=lambda: True)
    app = server.build_server(manager, None, None, None, None, state)
    requests = [("POST", "/reset", {}), ("GET", "/v1/models", {}), ("GET", "/v1/models", bearer(KEY))]
    assert statuses(app, requests) == [401, 401, 200] and not unloaded
    source = Path(sys.modules["transformers.cli"].__path__[0], "serve.py").read_text()
    assert "build_server(" in source and "from .serving.server import build_server" in source


def test_llama_cpp_gets_the_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.engines.llama_cpp import _options, _parameters

    options = _options().parse_args(["--model", "x"])
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert _parameters(options).api_keys == [KEY]
    monkeypatch.delenv(KEY_VARIABLE)
    assert _parameters(options).api_keys == []


def test_sglang_gets_the_key_where_no_list_of_processes_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sglang").mkdir()
    (tmp_path / "sglang" / "launch_server.py").write_text(SAYS_ITS_ARGUMENTS)
    monkeypatch.setenv("WEIGHBRIDGE_SGLANG_PYTHON", sys.executable)
    plan = EnginePlan(engine="sglang", engine_version="1", model_name="toy", context=64, concurrency=1)
    kind = engine("sglang")
    spec = kind.with_key_check(kind.launch(plan, tmp_path, "127.0.0.1", 8200))
    environment = {"PYTHONPATH": str(tmp_path), KEY_VARIABLE: KEY}
    said = subprocess.run(spec.command, env=environment, capture_output=True, text=True, check=True).stdout
    assert f"'--api-key', '{KEY}'] __main__" in said and "'--model-path'" in said
    assert KEY not in " ".join(spec.command)


@pytest.mark.skipif(not VLLM.exists(), reason="vLLM is not installed: make vllm")
def test_vllms_python_finds_the_middleware_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_VLLM_PYTHON", str(VLLM))
    plan = EnginePlan(engine="vllm", engine_version="1", model_name="toy", context=64, concurrency=1)
    kind = engine("vllm")
    spec = kind.with_key_check(kind.launch(plan, tmp_path, "127.0.0.1", 8200))
    module, _, name = spec.command[spec.command.index("--middleware") + 1].rpartition(".")
    code = f"import inspect, {module}; print(inspect.isclass({module}.{name}))"
    done = subprocess.run([str(VLLM), "-c", code], env=spec.environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_which_kinds_demand_a_key() -> None:
    assert [name for name in engine_names() if engine(name).takes_key] == [
        "llama-cpp",
        "sglang",
        "transformers",
        "vllm",
    ]
