"""Bring the stack up, say how it is, take it down; each may be done at any time, twice, after a crash."""

from __future__ import annotations

import json
import os
import time

import httpx
import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from registry import accounts
from registry.store.signing import KeyPair
from stack.deploy import Tell, deploy
from stack.services import POOL, Service, services
from tasks.serve.fleet.ports import port_is_free
from tasks.serve.fleet.protocol import fleet_of
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from weighbridge.errors import PortTaken, StackDown, StackFailed, WeighbridgeError
from weighbridge.files import READABLE, write_whole
from weighbridge.line import line_names
from weighbridge.settings import Settings

NO_SECRETS = dict.fromkeys((accounts.USERNAME, accounts.PASSWORD, accounts.ADMIN_PASSWORD), "")
"""What everything that supervisord starts would inherit from the shell that typed `up`."""


class ServiceStatus(BaseModel):
    """One service as it is now."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    """healthy, starting, unhealthy, or down."""
    pid: int = 0
    up_seconds: float = 0
    url: str = ""
    log: str = ""


def up(settings: Settings, tell: Tell) -> list[ServiceStatus]:
    """Start what does not run and wait until all of it is healthy.

    Raises:
        PortTaken: a port belongs to somebody else; nothing was started.
        StackFailed: a service did not become healthy; its log is named.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    # Two `up` at once would both find the ports free and both start what listens on them.
    try:
        with FileLock(settings.home / ".up.lock", timeout=300):
            _bring_up(settings, tell)
    except Timeout:
        raise StackFailed(
            "Another `weighbridge up` has been running for five minutes.", "Look at it, or end it, then try again."
        ) from None
    return status(settings)


def _bring_up(settings: Settings, tell: Tell) -> None:
    wanted = services(settings)
    supervisor = Supervisor(settings)
    if not supervisor.answers():
        for service in wanted:
            _require_port(settings, service)
    Gateway(settings).bootstrap()
    KeyPair.of(settings).files()
    if settings.mlflow_auth:
        # On file before anything starts that reads it; what was in this shell's environment stays in this shell.
        accounts.keep_password(settings, accounts.ADMIN)
    _record(settings)
    supervisor.start({**settings.as_environment(), **settings.library_environment(), **NO_SECRETS})
    for service in wanted:
        if service.name != "worker":
            supervisor.run(service.program)
    _wait_all(supervisor, [service for service in wanted if service.name != "worker"], tell)
    if settings.mlflow_auth:
        from registry.access.grants import Granting  # takes MLflow's import

        Granting(settings, line_names(settings.root / "lines")).apply(None, lambda text: tell("mlflow", text))
    for service in wanted:
        if service.name == "worker":
            deploy(settings, tell)
            supervisor.run(service.program)
            _wait_worker(settings, service, tell)
    _warm_engines(settings, tell)


def status(settings: Settings) -> list[ServiceStatus]:
    """How each service is; never raises because one is down."""
    supervisor = Supervisor(settings)
    states = {one.name: one for one in supervisor.states()} if supervisor.answers() else {}
    rows = []
    for service in services(settings):
        process = states.get(service.name)
        if process is None or process.state in ("STOPPED", "EXITED", "FATAL"):
            state = "down"
        elif process.state == "RUNNING" and service.healthy():
            state = "healthy"
        else:
            state = "starting" if process.up_seconds < service.ready_seconds else "unhealthy"
        rows.append(
            ServiceStatus(
                name=service.name,
                state=state,
                pid=process.pid if process else 0,
                up_seconds=process.up_seconds if process else 0,
                url=service.page_url,
                log=str(service.program.log),
            )
        )
    return rows


def require_up(settings: Settings) -> None:
    """Check that the services which flows need answer.

    Raises:
        StackDown: one does not; it is named.
    """
    needed = {service.name for service in services(settings) if service.flows_need}
    down = [one.name for one in status(settings) if one.name in needed and one.state != "healthy"]
    if down:
        raise StackDown(
            f"The local stack is not up: {', '.join(down)} not healthy.",
            "Run `weighbridge up`; `weighbridge logs NAME` shows why a service is down.",
            where=str(settings.home),
        )


def down(settings: Settings, tell: Tell) -> None:
    """Stop all that was started and wait until it is gone; harmless when nothing runs.

    Raises:
        StackFailed: something does not end.
    """
    supervisor = Supervisor(settings)
    if supervisor.pid is None:
        tell("stack", "is not up; nothing to stop")
    else:
        tell("stack", "stopping")
        supervisor.shut_down()
    _end_strays(settings)
    settings.stack_file.unlink(missing_ok=True)
    tell("stack", "is down")


def _end_strays(settings: Settings) -> None:
    """End what a supervisord that was killed has left: processes that carry this home in their environment."""
    strays = []
    for process in psutil.process_iter(["pid"]):
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        if environment.get("SUPERVISOR_ENABLED") and environment.get("WEIGHBRIDGE_HOME") == str(settings.home):
            strays.append(process)
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    strays = [process for process in strays if process.pid not in mine]
    for process in strays:
        process.terminate()
    _, alive = psutil.wait_procs(strays, timeout=20)
    for process in alive:
        process.kill()


def _require_port(settings: Settings, service: Service) -> None:
    if service.port is None or port_is_free(settings.host, service.port):
        return
    holder = next(
        (
            f"process {one.pid} ({psutil.Process(one.pid).name()})"
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == service.port and one.pid
        ),
        "another process",
    )
    raise PortTaken(
        f"Port {service.port}, which {service.name} needs, is taken by {holder}.",
        f"End it, or set {service.port_variable} to a free port and run `weighbridge up` again. Nothing was started.",
        where=f"{settings.host}:{service.port}",
    )


def _record(settings: Settings) -> None:
    """Write down what this stack was started with, so that other shells find it."""
    values = settings.model_dump(mode="json")
    write_whole(settings.stack_file, json.dumps(values, indent=1), READABLE)


def _wait_all(supervisor: Supervisor, wanted: list[Service], tell: Tell) -> None:
    start = time.monotonic()
    missing = list(wanted)
    while missing:
        for service in list(missing):
            state = supervisor.state(service.name)
            waited = time.monotonic() - start
            if state is not None and state.state == "RUNNING" and service.healthy():
                tell(service.name, f"healthy after {waited:.0f} s  {service.page_url}")
                missing.remove(service)
            elif state is None or state.state == "FATAL" or waited > service.ready_seconds:
                raise StackFailed(
                    f"{service.name} did not become healthy within {waited:.0f} s.",
                    f"Read `weighbridge logs {service.name}`, then run `weighbridge up` again.",
                    where=str(service.program.log),
                )
        time.sleep(0.3)


def _wait_worker(settings: Settings, service: Service, tell: Tell) -> None:
    start = time.monotonic()
    while (waited := time.monotonic() - start) < service.ready_seconds:
        if worker_is_online(settings):
            tell("worker", f"online after {waited:.0f} s")
            return
        time.sleep(0.5)
    raise StackFailed(
        f"The worker did not report to Prefect within {waited:.0f} s.",
        "Read `weighbridge logs worker`, then run `weighbridge up` again.",
        where=str(service.program.log),
    )


def worker_is_online(settings: Settings) -> bool:
    """Whether a worker of the pool sends heartbeats."""
    try:
        answer = httpx.post(f"{settings.prefect_url}/api/work_pools/{POOL}/workers/filter", json={}, timeout=5)
        return any(one["status"] == "ONLINE" for one in answer.json()) if answer.status_code == 200 else False
    except httpx.HTTPError:
        return False


def _warm_engines(settings: Settings, tell: Tell) -> None:
    """Engines that supervisord brought back are cold; the first user is not to find out."""
    fleet = fleet_of(settings)
    for one in fleet.engines():
        try:
            fleet.warm_up(one, lambda text, name=one.name: tell(name, text))  # type: ignore[misc]
        except WeighbridgeError as error:
            # One line's broken engine must not keep the stack, and so the other lines, down.
            tell(one.name, str(error))
