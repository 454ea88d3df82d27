"""Ollama as documented; it was never run here, and a stand-in program takes its place."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tasks.engines import EnginePlan
from tasks.engines.ollama import Engine, modelfile
from tests.support.ports import free_port
from weighbridge.errors import EngineFailed

# Recorded from docs.ollama.com/api/openai-compatibility (version 0.40): the shape of a chat answer.
ANSWER = {
    "id": "chatcmpl-351",
    "object": "chat.completion",
    "created": 1795000000,
    "model": "toy",
    "system_fingerprint": "fp_ollama",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 26, "completion_tokens": 3, "total_tokens": 29},
}
# The parts of `ollama` that this engine uses: `serve` on OLLAMA_HOST, `create`, `--version`.
STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

store = pathlib.Path(os.environ.get("OLLAMA_MODELS", "."))
if sys.argv[1] == "--version":
    print("Warning: could not connect to a running Ollama instance")
    print("Warning: client version is 0.40.12")
elif sys.argv[1] == "create":
    store.mkdir(exist_ok=True)
    (store / sys.argv[2]).write_text(pathlib.Path(sys.argv[4]).read_text())
else:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/v1/models/")
            self.reply(200 if self.path == "/api/version" or (store / name).is_file() else 404, {{}})
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(200, {ANSWER!r})
        def reply(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        def log_message(self, *_):
            pass
    host, port = os.environ["OLLAMA_HOST"].split(":")
    HTTPServer((host, int(port)), Handler).serve_forever()
"""


def plan(**flags: str | int | bool) -> EnginePlan:
    return EnginePlan(
        engine="ollama", engine_version="1", model_name="toy", context=512, concurrency=4, flags=dict(flags)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "engine" / "toy"
    model.mkdir(parents=True)
    (model / "model.gguf").write_bytes(b"GGUF")
    return model


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "ollama"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_the_plan_becomes_ollama_settings(folder: Path) -> None:
    spec = Engine().launch(plan(OLLAMA_KV_CACHE_TYPE="q8_0"), folder, "127.0.0.1", 8200)
    assert spec.environment["OLLAMA_HOST"] == "127.0.0.1:8200"
    assert spec.environment["OLLAMA_CONTEXT_LENGTH"] == "512", "of each request"
    assert spec.environment["OLLAMA_NUM_PARALLEL"] == "4"
    assert spec.environment["OLLAMA_KEEP_ALIVE"] == "-1"
    assert spec.environment["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    assert spec.environment["OLLAMA_MODELS"] == str(folder.parent / "ollama"), "gone with the engine's folder"


def test_the_modelfile_names_the_weights_and_the_context(tmp_path: Path) -> None:
    assert modelfile(tmp_path / "model.gguf", 512) == f"FROM {tmp_path / 'model.gguf'}\nPARAMETER num_ctx 512\n"


def test_an_unsupported_flag_is_named(folder: Path) -> None:
    with pytest.raises(EngineFailed, match="not given num-gpu here"):
        Engine().launch(plan(**{"num-gpu": 2}), folder, "127.0.0.1", 8200)


def test_a_missing_program_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineFailed, match="Ollama is not installed"):
        Engine().version()


def test_the_version_is_read_without_a_server(installed: None) -> None:
    assert Engine().version() == "ollama 0.40.12"


def test_health_waits_for_the_model_and_the_program_ends_with_the_server(folder: Path, installed: None) -> None:
    port = free_port()
    spec = Engine().launch(plan(), folder, "127.0.0.1", port)
    process = subprocess.Popen(spec.command, env={**os.environ, **spec.environment})
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        status = 0
        while status != 200 and time.monotonic() < deadline:
            try:
                status = httpx.get(url + Engine().health_path(plan()), timeout=2).status_code
            except httpx.HTTPError:
                status = 0
            time.sleep(0.1)
        assert status == 200
        assert (folder.parent / "ollama" / "toy").read_text().startswith(f"FROM {folder.resolve()}/model.gguf")
        answer = httpx.post(f"{url}/v1/chat/completions", content=json.dumps({"model": "toy", "messages": []})).json()
        assert answer["choices"][0]["message"]["content"] == "Paris."
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) is not None
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/api/version", timeout=2)
