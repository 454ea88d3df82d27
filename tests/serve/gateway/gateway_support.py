"""A real Envoy before fake engines: tiny OpenAI-compatible servers in threads."""

from __future__ import annotations

import gzip
import json
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tasks.serve.endpoint import Endpoint
from tasks.serve.gateway import Backend, Gateway
from tasks.serve.gateway.bootstrap import admin_socket
from tests.support.ports import free_port
from tests.support.waiting import wait_for
from weighbridge.settings import Settings


class FakeEngine(ThreadingHTTPServer):
    """A fake engine with optional faults; `requests` records what it received."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        self.health_status = 200
        self.chunks, self.pause_seconds, self.wait_seconds = 3, 0.0, 0.0
        self.dies = self.packs = False
        self.usage: dict[str, int] | None = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        self.padding = ""
        self.stream_bytes: bytes | None = None
        self.answer_bytes: bytes | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", port), _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def backend(self, version: str, weight: int, engine: str = "") -> Backend:
        endpoint = Endpoint(host="127.0.0.1", port=self.port)
        digest = version.rjust(64, "0")
        return Backend(version=version, digest=digest, engine=engine, endpoints=(endpoint,), weight=weight)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeEngine

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self._whole(self.server.health_status if self.path == "/health" else 404, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self._body())
        self.server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if body.get("stream"):
            self._stream(tells_usage=(body.get("stream_options") or {}).get("include_usage", False))
        else:
            self._whole(200, self.server.answer_bytes or json.dumps(self._answer()).encode())

    def _body(self) -> bytes:
        if "content-length" in self.headers:
            return self.rfile.read(int(self.headers["content-length"]))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _answer(self) -> dict[str, object]:
        usage = {"usage": self.server.usage} if self.server.usage else {}
        if self.path.endswith("/responses") and self.server.usage:
            counts = {"input_tokens": self.server.usage["prompt_tokens"]}
            return {"object": "response", "usage": {**counts, "output_tokens": self.server.usage["completion_tokens"]}}
        if self.path.endswith("/embeddings"):
            vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}
            return {"object": "list", "model": "fake", "data": [vector], **usage}
        if self.path.endswith("/chat/completions"):
            message = {"role": "assistant", "content": f"hello{self.server.padding}"}
            return {**_completion("chat.completion", message=message), **usage}
        return {**_completion("text_completion", text="hello"), **usage}

    def _whole(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if self.server.packs and status == 200:
            body = gzip.compress(body)
            self.send_header("content-encoding", "gzip")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, tells_usage: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        time.sleep(self.server.wait_seconds)
        if self.server.stream_bytes is not None:
            # In two parts, so that an event is cut by the border between them.
            middle = len(self.server.stream_bytes) // 2
            for part in (self.server.stream_bytes[:middle], self.server.stream_bytes[middle:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if part else b"")
                self.wfile.flush()
                time.sleep(self.server.pause_seconds)
            self.wfile.write(b"0\r\n\r\n")
            return
        for number in range(self.server.chunks):
            self._event(json.dumps(_completion("chat.completion.chunk", delta={"content": f"w{number} "})))
            time.sleep(self.server.pause_seconds)
        if self.server.dies:
            self.close_connection = True
            return
        if tells_usage and self.server.usage:
            last = {**_completion("chat.completion.chunk"), "choices": [], "usage": self.server.usage}
            self._event(json.dumps(last))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        text = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.flush()


def _completion(kind: str, **said: object) -> dict[str, object]:
    choice = {"index": 0, "finish_reason": None, **said}
    return {"id": "c1", "object": kind, "created": 1, "model": "fake", "choices": [choice]}


class Running:
    """A gateway with its Envoy."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.client = httpx.Client(base_url=gateway.settings.gateway_url, trust_env=False, timeout=30, verify=False)
        self.process: subprocess.Popen[bytes] | None = None
        self.envoy_log = gateway.settings.home / "envoy.log"

    def start(self) -> None:
        self.gateway.bootstrap()
        with self.envoy_log.open("w") as log:
            self.process = subprocess.Popen(self.gateway.envoy_command(), stderr=log)
        wait_for(self.gateway.health, seconds=15)

    def stop(self) -> None:
        self.client.close()
        if self.process:
            self.process.kill()
            self.process.wait()

    def request(self, path: str, body: object = None, *, key: str | None = "", **more: Any) -> httpx.Response:
        """Send a request with the default key, another key, or none if None."""
        headers = dict(more.pop("headers", {}))
        if key is not None:
            headers["authorization"] = f"Bearer {key or self.gateway.key()}"
        method = "GET" if body is None and "content" not in more else "POST"
        if body is not None:
            more["json"] = body
        return self.client.request(method, path, headers=headers, **more)

    def chat(self, model: str) -> httpx.Response:
        return self.request("/v1/chat/completions", {"model": model, "messages": []})


def make_gateway(home: Path) -> Gateway:
    """A gateway on a free port, not started."""
    return Gateway(Settings(home=home, gateway_port=free_port()))


def ask_admin(gateway: Gateway, path: str, method: str = "GET") -> httpx.Response:
    """Send a request to Envoy's admin interface, through its socket."""
    transport = httpx.HTTPTransport(uds=str(admin_socket(gateway.folder)))
    with httpx.Client(transport=transport, base_url="http://envoy", trust_env=False) as client:
        return client.request(method, path)
