"""An OpenAI-compatible endpoint in this process with the answers of a test; it can stop answering half way.

`with Answering(lambda question: "Paris") as endpoint:`; the questions are in `endpoint.asked`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Says = Callable[[str], str | dict[str, Any]]
"""From the last message of a question to the text of the answer, or to a whole choice."""


class Answering(ThreadingHTTPServer):
    """The endpoint.

    Args:
        says: the answer to each question.
        model: the only model that it lists.
        version: answer at /version, as vLLM gives it; None for an engine without this route.
        props: answer at /props, as llama.cpp gives it.
        dies_after: answers after which every connection breaks, until `revive`.
        echoes: `log-probabilities` if /v1/completions gives those of a prompt; `text` if it echoes only the text.
    """

    daemon_threads = True
    request_queue_size = 64
    key = ""
    """It demands none, as engines of an older Weighbridge."""

    def __init__(
        self,
        says: Says,
        *,
        model: str = "toy",
        version: str | None = "1.2.3",
        props: dict[str, Any] | None = None,
        dies_after: int | None = None,
        echoes: str = "",
        delay_seconds: float = 0.0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.says, self.model, self.version, self.props, self.echoes = says, model, version, props, echoes
        self.delay_seconds = delay_seconds
        self.left = dies_after
        self.asked: list[str] = []
        self.keys: set[str] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address, without `/v1`."""
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Answering:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def revive(self) -> None:
        """Answer again, and forget the questions so far."""
        with self.lock:
            self.left = None
            self.asked.clear()

    def may_answer(self) -> bool:
        """True if it still answers; counts one answer."""
        with self.lock:
            if self.left is None:
                return True
            self.left -= 1
            return self.left >= 0


class _Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.server.keys.add(self.headers.get("Authorization", ""))
        if self.server.left is not None and self.server.left <= 0:
            return self._break()
        entry = {"id": self.server.model, "object": "model", "owned_by": "toyworks", "created": id(self)}
        content = {
            "/v1/models": {"object": "list", "data": [entry]},
            "/version": {"version": self.server.version} if self.server.version else None,
            "/props": self.server.props,
        }.get(self.path)
        return self._send(200, content) if content is not None else self._send(404, {"error": "unknown"})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/completions":
            return self._complete(request)
        threading.Event().wait(self.server.delay_seconds)
        if not self.server.may_answer():
            return self._break()
        question = request["messages"][-1]["content"]
        answer = self.server.says(question)
        with self.server.lock:
            self.server.asked.append(question)
        choice = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        return self._send(200, {"choices": [answer if isinstance(answer, dict) else choice]})

    def _complete(self, request: dict[str, Any]) -> None:
        prompt = request["prompt"]
        if not self.server.may_answer():
            return self._break()
        if isinstance(prompt, str):
            tokens, text = prompt.split(), prompt
        else:
            # Token ids of one prompt, or a list with one prompt.
            tokens, text = prompt[0] if isinstance(prompt[0], list) else prompt, ""
        with self.server.lock:
            self.server.asked.append(str(prompt))
        choice: dict[str, Any] = {"index": 0, "text": " and", "logprobs": {"token_logprobs": [-0.5]}}
        if self.server.echoes:
            choice["text"] = f"{text} and"
        if self.server.echoes == "log-probabilities":
            # The log-probability falls with the token's number.
            numbers = [-1.5 if isinstance(token, str) else -0.1 * token for token in tokens[1:]]
            tops = [None, *({"x": number} for number in numbers), {"x": -0.5}]
            choice["logprobs"] = {"token_logprobs": [None, *numbers, -0.5], "top_logprobs": tops}
        return self._send(200, {"choices": [choice]})

    def _break(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
