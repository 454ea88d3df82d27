"""Cost of Weighbridge's audit record and accounts on MLflow's server: seconds, CPU-seconds and memory until it answers.

    python -m benchmarks.mlflow_server FOLDER

Starts it three times in FOLDER as the stack does: plain, with the record, with accounts too. An unmeasured start before
each creates its database tables. On a busy machine only CPU-seconds are comparable.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from stack.services import services
from weighbridge.settings import Settings

APP = ("--app-name", "weighbridge")


def start(folder: Path, how: str) -> str:
    """Start and stop the server once; return its figures as text."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = Settings(home=folder / how, mlflow_port=port, mlflow_auth=how == "accounts")
    service = services(settings)[0]
    command = [word for word in service.program.command if how != "plain" or word not in APP]
    service.program.folder.mkdir(parents=True)
    began = time.monotonic()
    with (folder / f"{how}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=service.program.folder,
            env={**os.environ, **service.program.environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while not service.healthy():
            time.sleep(0.2)
        seconds = time.monotonic() - began
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        cpu = sum(sum(member.cpu_times()[:2]) for member in family)
        memory = sum(member.memory_info().rss for member in family)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    return f"{how:>9}  {seconds:5.0f} s  {cpu:5.1f} CPU-s  {memory / 1e6:5.0f} MB"


if __name__ == "__main__":
    for how in ("plain", "record", "accounts"):
        start(Path(sys.argv[1]), how)
        print(start(Path(sys.argv[1]), how), flush=True)
