"""A stand-in for Prefect's API that records the requested flow runs; it answers as Prefect 3.8.8 does."""

from __future__ import annotations

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RecordedPrefect:
    """A server with some deployments; the same idempotency key again returns the same run.

    Args:
        deployments: Names such as `promote/toy`, each with whether it has an active schedule.
    """

    def __init__(self, deployments: dict[str, bool]) -> None:
        self.deployments = deployments
        self.runs: dict[str, dict[str, Any]] = {}
        """Runs by idempotency key: deployment, parameters, and the time of the request."""
        self.broken = False
        """Whether the server answers every request with 503."""
        self.refusal = 0
        """HTTP status for every request to create a run; 0: the run is created."""
        self.hangs_up = False
        """Whether the server creates a run and then closes the connection without an answer."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def asked(self, deployment: str) -> list[dict[str, Any]]:
        """Runs of a deployment, oldest first."""
        return [run for run in self.runs.values() if run["deployment"] == deployment]

    def _create(self, deployment: str, body: dict[str, Any]) -> dict[str, Any]:
        run = {"id": str(uuid.uuid4()), "deployment": deployment, "parameters": body["parameters"], "at": time.time()}
        return self.runs.setdefault(body.get("idempotency_key") or str(run["id"]), run)

    def _handler(recorded) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/api/deployments/name/")
                if recorded.broken or name not in recorded.deployments:
                    return self._answer(503 if recorded.broken else 404, {"detail": "no"})
                schedules = [{"active": recorded.deployments[name]}]
                return self._answer(200, {"id": name.replace("/", "~"), "paused": False, "schedules": schedules})

            def do_POST(self) -> None:
                name = self.path.split("/")[3].replace("~", "/")
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if recorded.refusal:
                    return self._answer(recorded.refusal, {"detail": "no"})
                run = recorded._create(name, body)
                if recorded.hangs_up:
                    self.close_connection = True
                    return None
                return self._answer(201, run)

            def _answer(self, status: int, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        return Handler
