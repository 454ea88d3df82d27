"""A real `mlflow server` on SQLite, as the stack starts it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port
from weighbridge.health import answers

# The server takes 17 s to start on an idle machine, and more than a minute on a busy one.
START_SECONDS = 240


@dataclass(frozen=True)
class MlflowServer:
    """A server that answers."""

    url: str
    database: Path
    log: Path


@contextmanager
def running(folder: Path, database: Path, variables: dict[str, str]) -> Iterator[MlflowServer]:
    """Run a server on a copy of a database until the end of the block."""
    server = MlflowServer(f"http://127.0.0.1:{free_port()}", folder / "mlflow.db", folder / "log")
    shutil.copy(database, server.database)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", server.url.rpartition(":")[2]]
    command += ["--backend-store-uri", f"sqlite:///{server.database}", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "files")]
    environment = {
        **os.environ,
        **{"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONSAFEPATH": "1"},
        **variables,
    }
    with serving(command, folder, environment, server.log, lambda: answers(f"{server.url}/health")):
        yield server


@contextmanager
def serving(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path, healthy: Callable[[], bool]
) -> Iterator[None]:
    """Run a server and its child processes, from when it is healthy to the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not healthy():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
