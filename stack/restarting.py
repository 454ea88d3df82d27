"""`weighbridge restart NAME`: start a service or an engine again, and wait until it is healthy."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from stack.deploy import ReportService
from stack.environments import SERVICE_NAMES, keep_environments, shell_environments
from stack.restarts import ORDER, await_pause, make_plan
from stack.services import Service, services
from stack.starting import wait_for
from stack.stopping import runs_under_way
from stack.worker_life import worker_is_online
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.protocol import RunningEngine
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from weighbridge.errors import RestartRefused, ServiceUnknown, StackDown
from weighbridge.home import PREFIX
from weighbridge.settings import Settings
from weighbridge.suggestions import did_you_mean


class Restarted(BaseModel):
    """A service or engine that was started again."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: str = "healthy"
    pid: int
    seconds: float
    """Until it was healthy."""


def require_known(settings: Settings, names: Sequence[str]) -> None:
    """Check names of services and engines.

    Raises:
        StackDown: Nothing runs.
        ServiceUnknown: One is neither; the nearest is named.
    """
    supervisor = Supervisor(settings)
    if not supervisor.answers():
        raise StackDown("The local stack is not up.", "Run `weighbridge up`, which starts it.", str(settings.home))
    engines = [engine.name for engine in fleet_of(settings).engines()]
    known = [*SERVICE_NAMES, *engines]
    for name in names:
        if name not in known:
            ending = did_you_mean(name, known) or "."
            raise ServiceUnknown(
                f"The stack has no service or engine called {name!r}{ending}",
                f"Name one of {', '.join(known)}.",
                where=str(settings.home),
            )


def obstacles(settings: Settings, names: Sequence[str]) -> list[str]:
    """Say what a restart would cut that does not come back by itself: a line's answers, runs, a scoring."""
    said = []
    for engine in fleet_of(settings).engines():
        if engine.name in names:
            said += _of_engine(settings, engine)
    if {"worker", "prefect"} & set(names) and (runs := runs_under_way(settings)):
        whose = "worker" if "worker" in names else "prefect"
        said.append(f"{whose} has {len(runs)} under way, which a restart cuts: {', '.join(runs[:5])}")
    return said


def restart(settings: Settings, names: Sequence[str], report: ReportService) -> list[Restarted]:
    """Start services and engines again, one by one, those that clients notice last.

    Raises:
        RestartRefused: This shell's settings are not those of the running stack.
        StackFailed: A service did not become healthy; its log is named.
        EngineFailed, ArtifactDamaged, ArtifactUnsigned: An engine did not.
    """
    supervisor, gateway = Supervisor(settings), Gateway(settings)
    # The service takes over this shell's variables, such as a new HF_TOKEN; nobody else does.
    environments = shell_environments(settings, take=names)
    requested = services(settings, environments)
    _require_same_settings(settings, supervisor)
    keep_environments(settings, environments)
    engines = [engine for engine in fleet_of(settings).engines() if engine.name in names]
    done = [_restart_engine(settings, supervisor, engine, report) for engine in engines]
    named = [service for service in requested if service.name in names]
    for service in sorted(named, key=lambda service: ORDER.index(service.name)):
        if service.name == "gateway":
            await_pause(gateway, report)
            gateway.bootstrap()
        done.append(_restart_service(settings, supervisor, service, report))
    return done


def _restart_service(settings: Settings, supervisor: Supervisor, service: Service, report: ReportService) -> Restarted:
    began, since = time.monotonic(), time.time()
    report(service.name, "restarts")
    supervisor.run(service.program, keep=True)
    supervisor.restart(service.name)
    # A worker has no address of its own: it is healthy once Prefect hears from it.
    ready = (lambda _: worker_is_online(settings, since)) if service.name == "worker" else None
    wait_for(supervisor, [service], report, ready)
    return _restarted(supervisor, service.name, began)


def _restart_engine(
    settings: Settings, supervisor: Supervisor, engine: RunningEngine, report: ReportService
) -> Restarted:
    began = time.monotonic()
    report(engine.name, "restarts")
    supervisor.restart(engine.name)
    fleet_of(settings).warm_up(engine, lambda text: report(engine.name, text.removeprefix(f"{engine.name} ")))
    report(engine.name, f"ready after {time.monotonic() - began:.0f} s")
    return _restarted(supervisor, engine.name, began)


def _restarted(supervisor: Supervisor, name: str, began: float) -> Restarted:
    state = supervisor.state(name)
    return Restarted(name=name, pid=state.pid if state else 0, seconds=round(time.monotonic() - began, 1))


def _require_same_settings(settings: Settings, supervisor: Supervisor) -> None:
    """Check that no service would get other settings than the running stack has.

    Raises:
        RestartRefused: One would, and the others would not find it.
    """
    plan = make_plan(settings, supervisor, services(settings))
    changed = [f"{entry.name}: {why}" for entry in plan.restarts for why in entry.reasons if why.startswith(PREFIX)]
    if changed:
        raise RestartRefused(
            f"This shell has other settings than the running stack ({'; '.join(changed)}).",
            "Run `weighbridge up`, which starts everything again that they concern, or unset them.",
            where=str(settings.stack_file),
        )


def _of_engine(settings: Settings, engine: RunningEngine) -> list[str]:
    said = []
    for route in Gateway(settings).routes().lines:
        for backend in route.backends:
            if backend.weight and backend.runs_on(engine.name, engine.endpoints):
                others = [other.version for other in route.backends if other.version != backend.version]
                way = (
                    f"; version {others[0]} can take them first: `weighbridge rollback {route.line}`" if others else ""
                )
                share = "all" if backend.weight == 100 else f"{backend.weight} %"
                said.append(
                    f"{engine.name} has {share} of the requests of {route.line}, which are refused until it answers "
                    f"again{way}"
                )
    if fleet_of(settings).on_trial(engine):
        said.append(f"{engine.name} is being scored, and the release that scores it would fail")
    return said
