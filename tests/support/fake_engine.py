"""A tiny OpenAI-compatible server whose behaviour is chosen by flags, in place of an engine.

Run `python tests/support/fake_engine.py PORT [--answer TEXT] [--status N] [--delay SECONDS] [--die-on-first] [--cut]
[--die-starting SECONDS]`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--answer", default="The capital of France is Paris.")
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--die-on-first", action="store_true")
    parser.add_argument("--cut", action="store_true", help="close the connection in the middle of each stream")
    parser.add_argument("--die-starting", type=float, help="end after so long, before a port is opened")
    options = parser.parse_args()
    if options.die_starting:
        time.sleep(options.die_starting)
        raise SystemExit("ImportError: libcudart.so.13: no such file")

    # As real engines do: with a key in the environment, every request must carry it.
    key = os.environ.get("WEIGHBRIDGE_ENGINE_KEY")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, b'{"status":"ok"}', "application/json")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if key and self.headers.get_all("Authorization") != [f"Bearer {key}"]:
                self._send(401, b'{"error":"no key"}', "application/json")
                return
            if options.die_on_first:
                os._exit(1)
            if options.status != 200:
                self._send(options.status, b'{"error":"no"}', "application/json")
            elif body.get("stream"):
                self._stream()
            else:
                message = {"message": {"role": "assistant", "content": options.answer}, "finish_reason": "stop"}
                self._send(200, json.dumps({"choices": [message]}).encode(), "application/json")

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            if options.cut:
                # More than is sent, so that the client detects the missing part.
                self.send_header("Content-Length", "100000")
            self.end_headers()
            for word in options.answer.split():
                self._chunk({"delta": {"content": f"{word} "}, "finish_reason": None})
                time.sleep(options.delay)
            self._chunk({"delta": {}, "finish_reason": "stop"})
            self.close_connection = True

        def _chunk(self, choice: dict[str, object]) -> None:
            self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
            self.wfile.flush()

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
