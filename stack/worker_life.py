"""Whether the worker takes runs: its process, and when Prefect heard from it last."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import httpx
import psutil
from pydantic import BaseModel, ConfigDict

from stack.services import POOL
from tasks.serve.fleet.supervisor import Supervisor
from weighbridge import prefect_api
from weighbridge.settings import Settings
from weighbridge.units import duration

SILENT_SECONDS = 90.0
"""Three of Prefect's heartbeats of a worker, after which Prefect too takes it for offline."""
ASKED_SECONDS = 5.0
STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


class WorkerLife(BaseModel):
    """What is known of the local worker."""

    model_config = ConfigDict(frozen=True)

    state: str
    """healthy, starting, silent (no heartbeat), frozen (its process is stopped), down, or unknown (Prefect is)."""
    pid: int = 0
    heard_seconds: float | None = None
    """Time since its last heartbeat; None if Prefect does not know."""

    @property
    def takes_runs(self) -> bool:
        """True if a run that is scheduled now will begin soon, as far as is known."""
        return self.state in ("healthy", "starting", "unknown")

    @property
    def sentence(self) -> str:
        """The state in words, without a full stop."""
        heard = "" if self.heard_seconds is None else f"; its last heartbeat was {duration(self.heard_seconds)} ago"
        return {
            "frozen": f"its process {self.pid} is stopped{heard}",
            "silent": f"its process {self.pid} runs and sends no heartbeat{heard}",
            "down": "it is down",
            "starting": "it starts",
            "unknown": "Prefect does not answer, and alone knows",
        }.get(self.state, "it takes runs")

    @property
    def next_step(self) -> str:
        """What helps where it takes no runs, without a full stop."""
        if self.state == "frozen":
            return f"Let it go on with `kill -CONT {self.pid}`, or start it again with `weighbridge restart worker`"
        return "Run `weighbridge restart worker`" if self.state == "silent" else "Run `weighbridge up`"


def worker_life(settings: Settings) -> WorkerLife:
    """Find out whether the local worker takes runs."""
    supervisor = Supervisor(settings)
    process = supervisor.state("worker") if supervisor.answers() else None
    if process is None or process.state not in ("RUNNING", "STARTING"):
        return WorkerLife(state="down")
    heard, since = last_heartbeat(settings, ASKED_SECONDS), time.time() - process.up_seconds
    seconds = None if heard is None else max(0.0, time.time() - heard)
    if is_stopped(process.pid):
        return WorkerLife(state="frozen", pid=process.pid, heard_seconds=seconds)
    if heard is None or seconds is None:
        return WorkerLife(state="unknown", pid=process.pid)
    if heard < since - 1 and process.up_seconds < SILENT_SECONDS:
        return WorkerLife(state="starting", pid=process.pid)
    state = "healthy" if seconds < SILENT_SECONDS else "silent"
    return WorkerLife(state=state, pid=process.pid, heard_seconds=seconds)


def worker_notes(settings: Settings) -> list[str]:
    """A sentence about a worker that takes no runs although its process is there."""
    life = worker_life(settings)
    if life.state not in ("frozen", "silent"):
        return []
    return [f"worker: {life.sentence}, so no run begins. {life.next_step}."]


def worker_is_online(settings: Settings, since: float = 0) -> bool:
    """True if a worker of the pool sends heartbeats.

    Args:
        settings: Of the installation.
        since: Only one after this time counts, in seconds since 1970: Prefect takes a worker for online for a while
            after its end.
    """
    heard = last_heartbeat(settings, timeout=20)
    return heard is not None and heard >= since and time.time() - heard < SILENT_SECONDS


def last_heartbeat(settings: Settings, timeout: float) -> float | None:
    """When Prefect heard from a worker of the pool last, in seconds since 1970; 0 if never, None if it is silent."""
    try:
        with prefect_api.client(settings, timeout=timeout) as server:
            answer = server.post(f"/work_pools/{POOL}/workers/filter", json={})
        if answer.status_code != httpx.codes.OK:
            return None
        return max((_heard(worker) for worker in answer.json()), default=0.0)
    except (httpx.HTTPError, ValueError):
        return None


def is_stopped(pid: int) -> bool:
    """True if the system has stopped a process, as SIGSTOP does; it may live on."""
    try:
        return pid > 0 and psutil.Process(pid).status() in STOPPED
    except psutil.Error:
        return False


def _heard(worker: dict[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(worker["last_heartbeat_time"]).replace("Z", "+00:00")).timestamp()
    except (KeyError, ValueError):
        return 0.0
