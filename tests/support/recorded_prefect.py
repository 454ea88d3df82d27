"""A stand-in for Prefect's API that keeps which flow runs it was asked for, as 3.8.8 answers."""

from __future__ import annotations

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RecordedPrefect:
    """Knows some deployments; the same idempotency key again gives the same run.

    Args:
        deployments: as `promote/toy`, each with whether a schedule of it is active.
    """

    def __init__(self, deployments: dict[str, bool]) -> None:
        self.deployments = deployments
        self.runs: dict[str, dict[str, Any]] = {}
        """By key: deployment, parameters, and when it was asked for."""
        self.broken = False
        """Whether it answers 503."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def asked(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment, oldest first."""
        return [run for run in self.runs.values() if run["deployment"] == deployment]

    def _handler(recorded) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/api/deployments/name/")
                if recorded.broken or name not in recorded.deployments:
                    return self._say(503 if recorded.broken else 404, {"detail": "no"})
                schedules = [{"active": recorded.deployments[name]}]
                return self._say(200, {"id": name.replace("/", "~"), "paused": False, "schedules": schedules})

            def do_POST(self) -> None:
                name = self.path.split("/")[3].replace("~", "/")
                wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                run = {
                    "id": str(uuid.uuid4()),
                    "deployment": name,
                    "parameters": wanted["parameters"],
                    "at": time.time(),
                }
                self._say(201, recorded.runs.setdefault(wanted["idempotency_key"], run))

            def _say(self, status: int, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler
