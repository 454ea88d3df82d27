"""Start the stack, report its state, stop it; each may be done at any time, twice, and after a crash."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from registry import accounts
from registry.backup import RESTORED_ROUTES, require_whole
from registry.signing import KeyPair
from stack.deploy import ReportService, deploy, ensure_work_pool
from stack.environments import SERVICE_NAMES, keep_environments, shell_environments
from stack.ports import listeners, new_listeners, require_ports
from stack.restarts import Plan, await_pause, gateway_reasons, make_plan, shell_notes
from stack.services import Service, services
from stack.starting import wait_for
from stack.stopping import cut_by_restart
from stack.worker_life import is_stopped, worker_is_online, worker_life
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.older_commands import launch_older_engines
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from tasks.serve.rollout.traffic import withdraw_unadmitted
from weighbridge import prefect_api
from weighbridge.errors import DiskFull, Interrupted, StackDown, StackFailed, WeighbridgeError
from weighbridge.files import READABLE, write_whole
from weighbridge.home import HOME_SETTINGS, home_hint, kept_offset
from weighbridge.line import line_names
from weighbridge.private_files import private_home
from weighbridge.settings import Settings

NO_TELEMETRY = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
"""For every program, engines too."""
LEAST_FREE_MIB = 100
_OLD_ENVIRONMENT = (
    "supervisord was started by an older Weighbridge and still has {count} variables of a shell ({names}, …). What is "
    "started from now on gets them empty; engines that run keep them until `weighbridge down` and `weighbridge up`"
)


class ServiceStatus(BaseModel):
    """The present state of one service."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    """healthy, starting, unhealthy, frozen (its process is stopped), or down."""
    pid: int = 0
    up_seconds: float = 0
    url: str = ""
    log: str = ""


def up(settings: Settings, report: ReportService) -> list[ServiceStatus]:
    """Start every service that does not run, and wait until all are healthy.

    A running service is started again only if something changed that it uses; it is named first, with the reason.

    Raises:
        PortTaken: another process has a port; nothing was started.
        StackFailed: a service did not become healthy; its log is named.
        RestoreUnfinished: a restore into this home was killed.
    """
    for sentence in (*private_home(settings.home), *filter(None, [home_hint()])):
        report("home", sentence)
    require_whole(settings)
    _require_space(settings.home)
    # Two `up` at once would both find the ports free, and both start the services.
    try:
        with FileLock(settings.home / ".up.lock", timeout=300):
            _start_all(settings, report)
    except Timeout:
        raise StackFailed(
            "Another `weighbridge up` has been running for five minutes.", "Look at it, or end it, then try again."
        ) from None
    return status(settings)


def interrupted(settings: Settings) -> Interrupted:
    """Say what an `up` that was interrupted has left running."""
    supervisor = Supervisor(settings)
    runs = [state.name for state in supervisor.states() if state.pid] if supervisor.answers() else []
    if not runs:
        return Interrupted(
            "The start was interrupted; nothing runs.", "`weighbridge up` starts the stack.", where=str(settings.home)
        )
    return Interrupted(
        f"The start was interrupted; {', '.join(runs)} {'runs' if len(runs) == 1 else 'run'} on.",
        "`weighbridge up` continues where this one stopped; `weighbridge down` stops what runs.",
        where=str(settings.home),
    )


def plan_up(settings: Settings) -> Plan:
    """Work out what `up` would start and start again, without doing it.

    Raises:
        PortTaken: another process has a port that a service needs.
    """
    supervisor, gateway = Supervisor(settings), Gateway(settings)
    if not supervisor.answers():
        require_ports(settings, listeners(settings))
        return Plan(starts=SERVICE_NAMES)
    requested = services(settings, shell_environments(settings))
    plan = make_plan(settings, supervisor, requested, gateway_reasons(gateway))
    require_ports(settings, new_listeners(settings, supervisor, requested, plan))
    return plan


def _start_all(settings: Settings, report: ReportService) -> None:
    supervisor, gateway = Supervisor(settings), Gateway(settings)
    running = supervisor.answers()
    if running:
        # Services with another secret than this one are started again.
        prefect_api.keep_secret(settings)
    plan = plan_up(settings)
    prefect_api.keep_secret(settings)
    environments = shell_environments(settings)
    if running:
        for name, sentence in (*((restart.name, str(restart)) for restart in plan.restarts), *shell_notes(settings)):
            report(name, sentence)
        if {"worker", "prefect"} & set(plan.restarting):
            for sentence in cut_by_restart(settings):
                report("worker", sentence)
        if inherited := supervisor.inherited_names():
            report("stack", _OLD_ENVIRONMENT.format(count=len(inherited), names=", ".join(inherited[:3])))
    else:
        # They are started below, one by one; only engines start with supervisord.
        supervisor.forget_files(SERVICE_NAMES)
    keep_environments(settings, environments)
    requested = {service.name: service for service in services(settings)}
    for sentence in withdraw_unadmitted(gateway):
        report("gateway", sentence)
    # The pause is awaited by the admin interface that Envoy has now, which the new configuration may move.
    if "gateway" not in plan.restarting:
        gateway.bootstrap()
    KeyPair.of(settings).prepare()
    if settings.mlflow_auth:
        # On file before anything starts that reads it. The shell's own environment is not passed on.
        accounts.keep_password(settings, accounts.ADMIN)
    _record(settings)
    for name in launch_older_engines(settings, fleet_of(settings).engines()):
        report(name, "verifies its artifact from its next restart on")
    supervisor.start({**settings.as_environment(), **NO_TELEMETRY})
    for name in plan.kept:
        supervisor.run(requested[name].program, keep=True)
    for name in ("mlflow", "prefect"):
        _start_again(supervisor, plan, requested[name], report)
    servers = [service for name, service in requested.items() if name != "worker" and name not in plan.restarting]
    for service in servers:
        if service.name in plan.starts:
            report(service.name, f"starts  {service.page_url}".rstrip())
            supervisor.run(service.program)
    wait_for(supervisor, servers, report, kept=plan.kept)
    _start_again(supervisor, plan, requested["webhook"], report)
    if settings.mlflow_auth:
        from registry.access.grants import Granting  # takes MLflow's import

        Granting(settings, line_names(settings.root / "lines")).apply(None, lambda text: report("mlflow", text))
    # The worker imports Prefect for as long as the deployments are sent: both at once.
    ensure_work_pool(settings)
    since = 0.0
    if "worker" not in plan.kept:
        since = time.time()
        report("worker", "starts")
        supervisor.run(requested["worker"].program)
    deploy(settings, report)
    wait_for(supervisor, [requested["worker"]], report, lambda _: worker_is_online(settings, since), plan.kept)
    if "gateway" in plan.restarting:
        await_pause(gateway, report)
        gateway.bootstrap()
        _start_again(supervisor, plan, requested["gateway"], report)
    _warm_engines(settings, report)
    if (settings.home / RESTORED_ROUTES).is_file():
        from tasks.serve.recovery import serve_restored

        serve_restored(settings, lambda text: report("restored", text))


def _start_again(supervisor: Supervisor, plan: Plan, service: Service, report: ReportService) -> None:
    """Start a running service again if the plan says so, and wait until it is ready."""
    if service.name in plan.restarting:
        supervisor.run(service.program)
        wait_for(supervisor, [service], report)


def status(settings: Settings) -> list[ServiceStatus]:
    """Report the state of each service; a service that is down is no error."""
    supervisor = Supervisor(settings)
    states = {process.name: process for process in supervisor.states()} if supervisor.answers() else {}
    known = services(settings)
    running = [service for service in known if service.name in states and states[service.name].state == "RUNNING"]
    # Side by side: a service that hangs must not keep the others waiting.
    with ThreadPoolExecutor(len(known)) as pool:
        asked = pool.map(lambda service: _is_healthy(settings, service), running)
        healthy = dict(zip([service.name for service in running], asked, strict=True))
    rows = []
    for service in known:
        process = states.get(service.name)
        if process is None or process.state in ("STOPPED", "EXITED", "FATAL"):
            state = "down"
        elif is_stopped(process.pid):
            state = "frozen"
        elif healthy.get(service.name):
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


def _is_healthy(settings: Settings, service: Service) -> bool:
    # The worker has no address to ask: Prefect hears from it, or not.
    return worker_life(settings).state in ("healthy", "unknown") if service.name == "worker" else service.healthy()


def require_up(settings: Settings, *, worker: bool = True) -> None:
    """Check that the services which flows need are healthy.

    Args:
        settings: Of the installation.
        worker: Whether the flow runs at the worker, which a flow in this process does without.

    Raises:
        StackDown: one is not; it is named.
    """
    needed = {service.name for service in services(settings) if service.flows_need}
    needed -= set() if worker else {"worker"}
    down = [row.name for row in status(settings) if row.name in needed and row.state != "healthy"]
    if down:
        hint = home_hint()
        raise StackDown(
            f"The local stack is not up: {', '.join(down)} not healthy.{f' {hint}' if hint else ''}",
            "Run `weighbridge up`; `weighbridge logs NAME` shows why a service is down.",
            where=str(settings.home),
        )


def _record(settings: Settings) -> None:
    """Record the settings of this stack, so that commands in other shells find it."""
    values = settings.model_dump(mode="json")
    write_whole(settings.stack_file, json.dumps(values, indent=1), READABLE)
    if settings.port_offset != kept_offset(settings.home):
        # For good: after `down` there is no record of the stack.
        write_whole(settings.home / HOME_SETTINGS, json.dumps({"port_offset": settings.port_offset}), READABLE)


def _require_space(home: Path) -> None:
    """Check that the services can write; one that finds the disk full dies without a word that helps.

    Raises:
        DiskFull: They could not for long.
    """
    free_mib = shutil.disk_usage(home).free / 2**20
    if free_mib < LEAST_FREE_MIB:
        raise DiskFull(
            f"The disk of the home has {free_mib:.0f} MiB free; the services need {LEAST_FREE_MIB}.",
            "Free some disk (docs/how-to/run-the-stack.md lists what may be deleted), then run `weighbridge up` again.",
            where=str(home),
        )


def _warm_engines(settings: Settings, report: ReportService) -> None:
    """Warm the engines that supervisord has restarted, so that no user waits for their first answer."""
    fleet = fleet_of(settings)
    for engine in fleet.engines():
        try:
            fleet.warm_up(engine, lambda text, name=engine.name: report(name, text.removeprefix(f"{name} ")))  # type: ignore[misc]
        except WeighbridgeError as error:
            # A broken engine of one line must not keep the stack, and with it the other lines, down.
            report(engine.name, str(error))
