"""Stop the stack, and say before what that cuts."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import httpx
import psutil

from stack.deploy import ReportService
from stack.environments import SERVICE_NAMES, forget_environments
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from weighbridge import prefect_api
from weighbridge.errors import GatewayFailed
from weighbridge.settings import Settings

UNDER_WAY = ("RUNNING", "CANCELLING")
"""Prefect's types of states of a run that has a process."""
ASKED_SECONDS = 3.0
SHOWN = 5
CANCELLED_WITHIN_SECONDS = 20.0
"""Prefect's worker looks for cancelled runs every few seconds, and ends a process within a few more."""


def runs_under_way(settings: Settings, line: str = "") -> list[str]:
    """Names of the flow runs that have a process now, in the worker or in a terminal; none if Prefect is silent.

    Args:
        settings: of the installation.
        line: only its runs; empty for all.
    """
    return [str(run["name"]) for run in _under_way(settings, line)]


def cancel_runs(settings: Settings, line: str) -> list[str]:
    """Cancel a line's runs that are under way, and wait until the worker has ended their processes.

    Returns:
        Names of those that have not ended, such as a run of a terminal: Prefect only marks it.
    """
    for run in _under_way(settings, line):
        with contextlib.suppress(httpx.HTTPError), prefect_api.client(settings, timeout=ASKED_SECONDS) as server:
            state = {"type": "CANCELLING", "name": "Cancelling", "message": f"the line {line} is retired"}
            server.post(f"/flow_runs/{run['id']}/set_state", json={"state": state})
    deadline = time.monotonic() + CANCELLED_WITHIN_SECONDS
    while (left := runs_under_way(settings, line)) and time.monotonic() < deadline:
        time.sleep(1)
    return left


def _under_way(settings: Settings, line: str) -> list[dict[str, Any]]:
    requested = {"flow_runs": {"state": {"type": {"any_": UNDER_WAY}}}, "limit": 50}
    try:
        with prefect_api.client(settings, timeout=ASKED_SECONDS) as server:
            answer = server.post("/flow_runs/filter", json=requested)
        runs = answer.json() if answer.status_code == httpx.codes.OK else []
        return [run for run in runs if not line or run["parameters"].get("line") == line]
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return []


def cut_by_restart(settings: Settings) -> list[str]:
    """Say which runs a restart of the worker or of Prefect cuts."""
    runs = runs_under_way(settings)
    further = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return [f"its restart cuts {', '.join(runs[:SHOWN])}{further}; the same command continues it"] if runs else []


def cut_by_stop(settings: Settings) -> list[str]:
    """Say what stopping the stack would cut: runs under way, and requests of clients."""
    if not Supervisor(settings).answers():
        return []
    said = []
    if runs := runs_under_way(settings):
        further = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
        said.append(f"cuts {', '.join(runs[:SHOWN])}{further}; the same command continues it after the next `up`")
    try:
        requests = Gateway(settings).client_requests()
    except GatewayFailed:
        requests = 0
    if requests:
        said.append(f"cuts {requests} {'request' if requests == 1 else 'requests'} of clients")
    return said


def down(settings: Settings, report: ReportService) -> None:
    """Stop every process of the stack and wait until all have ended; harmless when nothing runs.

    Raises:
        StackFailed: a process does not end.
    """
    supervisor = Supervisor(settings)
    if supervisor.pid is None:
        report("stack", "is not up; nothing to stop")
    else:
        report("stack", "stopping")
        supervisor.shut_down()
    supervisor.forget_files(SERVICE_NAMES)
    forget_environments(settings)
    _end_orphans(settings)
    settings.stack_file.unlink(missing_ok=True)
    report("stack", "is down")


def _end_orphans(settings: Settings) -> None:
    """End the processes of a supervisord that was killed; they carry this home in their environment."""
    orphans = []
    for process in psutil.process_iter(["pid"]):
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        if environment.get("SUPERVISOR_ENABLED") and environment.get("WEIGHBRIDGE_HOME") == str(settings.home):
            orphans.append(process)
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    orphans = [process for process in orphans if process.pid not in own]
    for process in orphans:
        process.terminate()
    _, alive = psutil.wait_procs(orphans, timeout=20)
    for process in alive:
        process.kill()
