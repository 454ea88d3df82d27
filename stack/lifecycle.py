"""Start the stack, report its state, stop it; each may be done at any time, twice, and after a crash."""

from __future__ import annotations

import json
import os
import time

import httpx
import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from registry import accounts
from registry.backup import RESTORED_ROUTES, require_whole
from registry.signing import KeyPair
from stack.deploy import ReportService, deploy, ensure_work_pool
from stack.services import (
    POOL,
    SERVICE_NAMES,
    Service,
    environments_are_kept,
    forget_environments,
    keep_environments,
    services,
)
from stack.starting import wait_for
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.older_commands import launch_older_engines
from tasks.serve.fleet.ports import port_is_free
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from tasks.serve.rollout.traffic import withdraw_unadmitted
from weighbridge import prefect_api
from weighbridge.errors import GatewayFailed, PortTaken, StackDown, StackFailed, WeighbridgeError
from weighbridge.files import READABLE, write_whole
from weighbridge.line import line_names
from weighbridge.private_files import private_home
from weighbridge.settings import Settings

NO_TELEMETRY = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
"""For every program, engines too."""
PAUSE_SECONDS = 30.0
_OLD_ENVIRONMENT = (
    "supervisord was started by an older Weighbridge and still has {count} variables of a shell ({names}, …). What is "
    "started from now on gets them empty; engines that run keep them until `weighbridge down` and `weighbridge up`"
)


class ServiceStatus(BaseModel):
    """The present state of one service."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    """healthy, starting, unhealthy, or down."""
    pid: int = 0
    up_seconds: float = 0
    url: str = ""
    log: str = ""


def up(settings: Settings, report: ReportService) -> list[ServiceStatus]:
    """Start every service that does not run, and wait until all are healthy.

    Raises:
        PortTaken: another process has a port; nothing was started.
        StackFailed: a service did not become healthy; its log is named.
        RestoreUnfinished: a restore into this home was killed.
    """
    for sentence in private_home(settings.home):
        report("home", sentence)
    require_whole(settings)
    # Two `up` at once would both find the ports free, and both start the services.
    try:
        with FileLock(settings.home / ".up.lock", timeout=300):
            _start_all(settings, report)
    except Timeout:
        raise StackFailed(
            "Another `weighbridge up` has been running for five minutes.", "Look at it, or end it, then try again."
        ) from None
    return status(settings)


def _start_all(settings: Settings, report: ReportService) -> None:
    supervisor = Supervisor(settings)
    running = supervisor.answers()
    if not running or not environments_are_kept(settings):
        keep_environments(settings)
    # Services with another secret than this one are started again.
    prefect_api.keep_secret(settings)
    all_services = services(settings)
    worker = next(service for service in all_services if service.name == "worker")
    servers = [service for service in all_services if service.name != "worker"]
    if not running:
        for service in servers:
            _require_port(settings, service)
        # They are started below, one by one; only engines start with supervisord.
        supervisor.forget_files(SERVICE_NAMES)
    elif inherited := supervisor.inherited_names():
        report("stack", _OLD_ENVIRONMENT.format(count=len(inherited), names=", ".join(inherited[:3])))
    gateway = Gateway(settings)
    if running and (port := gateway.old_admin):
        _await_pause(gateway, report, port)
    for sentence in withdraw_unadmitted(gateway):
        report("gateway", sentence)
    gateway.bootstrap()
    KeyPair.of(settings).prepare()
    if settings.mlflow_auth:
        # On file before anything starts that reads it. The shell's own environment is not passed on.
        accounts.keep_password(settings, accounts.ADMIN)
    _record(settings)
    for name in launch_older_engines(settings, fleet_of(settings).engines()):
        report(name, "verifies its artifact from its next restart on")
    supervisor.start({**settings.as_environment(), **NO_TELEMETRY})
    for service in servers:
        supervisor.run(service.program)
    wait_for(supervisor, servers, report)
    if settings.mlflow_auth:
        from registry.access.grants import Granting  # takes MLflow's import

        Granting(settings, line_names(settings.root / "lines")).apply(None, lambda text: report("mlflow", text))
    # The worker imports Prefect for as long as the deployments are sent: both at once.
    ensure_work_pool(settings)
    supervisor.run(worker.program)
    deploy(settings, report)
    wait_for(supervisor, [worker], report, lambda service: worker_is_online(settings))
    _warm_engines(settings, report)
    if (settings.home / RESTORED_ROUTES).is_file():
        from tasks.serve.recovery import serve_restored

        serve_restored(settings, lambda text: report("restored", text))


def _await_pause(gateway: Gateway, report: ReportService, port: str) -> None:
    """Wait for a moment without requests before the gateway of an older version is restarted.

    Its admin interface has a port, by which any local user or web page can stop it, so the restart is not put off for
    longer than PAUSE_SECONDS.
    """
    report("gateway", f"is restarted, because its admin interface is open at {port}; waits for its requests to end")
    deadline = time.monotonic() + PAUSE_SECONDS
    try:
        while (active := gateway.client_requests()) and time.monotonic() < deadline:
            time.sleep(0.1)
    except GatewayFailed:
        return
    if active:
        report("gateway", f"{active} requests did not end within {PAUSE_SECONDS:.0f} s and are cut")


def status(settings: Settings) -> list[ServiceStatus]:
    """Report the state of each service; a service that is down is no error."""
    supervisor = Supervisor(settings)
    states = {process.name: process for process in supervisor.states()} if supervisor.answers() else {}
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
    """Check that the services which flows need are healthy.

    Raises:
        StackDown: one is not; it is named.
    """
    needed = {service.name for service in services(settings) if service.flows_need}
    down = [row.name for row in status(settings) if row.name in needed and row.state != "healthy"]
    if down:
        raise StackDown(
            f"The local stack is not up: {', '.join(down)} not healthy.",
            "Run `weighbridge up`; `weighbridge logs NAME` shows why a service is down.",
            where=str(settings.home),
        )


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


def _require_port(settings: Settings, service: Service) -> None:
    if service.port is None or port_is_free(settings.host, service.port):
        return
    holder = next(
        (
            f"process {socket.pid} ({psutil.Process(socket.pid).name()})"
            for socket in psutil.net_connections("tcp")
            if socket.status == psutil.CONN_LISTEN and socket.laddr and socket.laddr.port == service.port and socket.pid
        ),
        "another process",
    )
    raise PortTaken(
        f"Port {service.port}, which {service.name} needs, is taken by {holder}.",
        f"End it, or set {service.port_variable} to a free port and run `weighbridge up` again. Nothing was started.",
        where=f"{settings.host}:{service.port}",
    )


def _record(settings: Settings) -> None:
    """Record the settings of this stack, so that commands in other shells find it."""
    values = settings.model_dump(mode="json")
    write_whole(settings.stack_file, json.dumps(values, indent=1), READABLE)


def worker_is_online(settings: Settings) -> bool:
    """True if a worker of the pool sends heartbeats."""
    try:
        with prefect_api.client(settings, timeout=20) as server:
            answer = server.post(f"/work_pools/{POOL}/workers/filter", json={})
        return any(worker["status"] == "ONLINE" for worker in answer.json()) if answer.status_code == 200 else False
    except httpx.HTTPError:
        return False


def _warm_engines(settings: Settings, report: ReportService) -> None:
    """Warm the engines that supervisord has restarted, so that no user waits for their first answer."""
    fleet = fleet_of(settings)
    for engine in fleet.engines():
        try:
            fleet.warm_up(engine, lambda text, name=engine.name: report(name, text.removeprefix(f"{name} ")))  # type: ignore[misc]
        except WeighbridgeError as error:
            # A broken engine of one line must not keep the stack, and with it the other lines, down.
            report(engine.name, str(error))
