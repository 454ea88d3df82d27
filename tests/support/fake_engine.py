"""A tiny OpenAI-compatible server whose behaviour is chosen by flags, in place of an engine.

Run `python tests/support/fake_engine.py PORT [--answer TEXT] [--status N] [--delay SECONDS] [--die-on-first] [--cut]
[--die-starting SECONDS]`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import threading
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
    parser.add_argument("--stall", type=float, default=0.0, help="after a stream's head, send nothing for so long")
    parser.add_argument("--stall-share", type=float, default=1.0, help="of the streams that stall")
    parser.add_argument("--stream-errors", type=float, default=0.0, help="share of streams with an error in them")
    parser.add_argument("--busy", type=float, default=0.0, help="seconds a word for each request under way")
    options = parser.parse_args()
    counting, under_way = threading.Lock(), [0]
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
            if body.get("bad"):
                self._send(400, b'{"error":{"message":"temperature must be positive","code":400}}', "application/json")
            elif options.status != 200:
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
            if options.stall and random.random() < options.stall_share:
                self.wfile.flush()
                time.sleep(options.stall)
            with counting:
                under_way[0] += 1
            try:
                self._words()
            finally:
                with counting:
                    under_way[0] -= 1
            self.close_connection = True

        def _words(self) -> None:
            words = options.answer.split()
            breaks_at = len(words) // 2 if random.random() < options.stream_errors else None
            for place, word in enumerate(words):
                if place == breaks_at:
                    self._event('{"error": {"message": "an illegal memory access", "type": "InternalServerError"}}')
                    self._event("[DONE]")
                    return
                self._chunk({"delta": {"content": f"{word} "}, "finish_reason": None})
                time.sleep(options.delay + options.busy * under_way[0])
            self._chunk({"delta": {}, "finish_reason": "stop"})
            self._event("[DONE]")

        def _chunk(self, choice: dict[str, object]) -> None:
            self._event(json.dumps({"choices": [choice]}))

        def _event(self, data: str) -> None:
            self.wfile.write(f"data: {data}\n\n".encode())
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
