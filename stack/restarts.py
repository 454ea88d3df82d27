"""Which running services must be started again, and why; `up` says so first, and `up --dry-run` says nothing else."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from stack.deploy import ReportService
from stack.environments import (
    SERVICE_NAMES,
    SOFTWARE_VARIABLE,
    kept_environments,
    other_values,
    shell_environments,
    used_settings,
    variable,
)
from stack.services import CONFIGURATION_MARK, SECRET_MARK, Service
from tasks.serve.fleet.program import Program, read_program
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from weighbridge.errors import GatewayFailed
from weighbridge.failures import redact
from weighbridge.settings import Settings

ORDER = ("mlflow", "prefect", "webhook", "worker", "gateway")
"""Those whose clients notice a restart come last: a worker has runs, and the gateway has everybody's requests."""
RUNNING = ("RUNNING", "STARTING", "BACKOFF")
_SECRETS = {SECRET_MARK: "its secret changed", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "the webhook's key changed"}
PAUSE_SECONDS = 30.0
LONGEST = 200
"""Characters of a value that are shown."""


class Restart(BaseModel):
    """A running service that must be started again."""

    model_config = ConfigDict(frozen=True)

    name: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"restarts: {'; '.join(self.reasons)}"


class Plan(BaseModel):
    """What `up` does with each service."""

    model_config = ConfigDict(frozen=True)

    starts: tuple[str, ...] = ()
    restarts: tuple[Restart, ...] = ()
    """In this order, one by one."""
    kept: tuple[str, ...] = ()

    @property
    def restarting(self) -> tuple[str, ...]:
        """Names of the services that are started again."""
        return tuple(restart.name for restart in self.restarts)


def make_plan(
    settings: Settings,
    supervisor: Supervisor,
    services: Sequence[Service],
    further: Mapping[str, str] | None = None,
) -> Plan:
    """Compare the services that run with those that the settings ask for.

    Args:
        settings: Of the installation.
        supervisor: It runs them, or does not run itself.
        services: As they should be.
        further: Reasons of another kind to start a service again, by its name.
    """
    of_shell = shell_names(settings)
    states = {state.name: state.state for state in supervisor.states()} if supervisor.answers() else {}
    running = [service for service in services if states.get(service.name) in RUNNING]
    restarts = []
    for service in sorted(running, key=lambda service: ORDER.index(service.name)):
        program = read_program(service.name, supervisor.programs / f"{service.name}.conf")
        why = reasons(program, service.program, of_shell[service.name])
        if not why and further and service.name in further:
            why = [further[service.name]]
        if why:
            restarts.append(Restart(name=service.name, reasons=tuple(why)))
    restarting = {restart.name for restart in restarts}
    return Plan(
        starts=tuple(service.name for service in services if service not in running),
        restarts=tuple(restarts),
        kept=tuple(service.name for service in running if service.name not in restarting),
    )


def reasons(before: Program | None, after: Program, of_shell: Collection[str]) -> list[str]:
    """Say why a service must be started again; nothing if what it uses is as it was.

    Args:
        before: Its program as it was started, perhaps by an older version, which gave every service every setting.
        after: As it should be.
        of_shell: Names of the variables that it has, or had, of a shell.
    """
    if before is None:
        return ["supervisord's file of it is missing or damaged"]
    own = {variable(field) for field in used_settings(after.name)}
    names = sorted({*before.environment, *after.environment})
    changed = [name for name in names if _changed(name, before, after, {*own, *of_shell})]
    settings = [name for name in changed if name in own]
    said = [f"{name} {_shown(before.environment, name)} → {_shown(after.environment, name)}" for name in settings]
    said += [why for name, why in _SECRETS.items() if name in changed]
    if SOFTWARE_VARIABLE in changed:
        said.append(_upgrade(before.environment.get(SOFTWARE_VARIABLE, ""), after.environment[SOFTWARE_VARIABLE]))
    said += [f"{name} changed" for name in changed if name in of_shell]
    if said:
        return said
    # What follows from a setting, such as an address with its port in it, is not said a second time.
    if CONFIGURATION_MARK in changed:
        return ["an upgrade changed its configuration"]
    if changed:
        return [f"an upgrade changed {', '.join(changed)}"]
    if before.command != after.command:
        return [_other_command(before.command, after.command)]
    return [f"its folder is now {after.folder}"] if before.folder != after.folder else []


def _changed(name: str, before: Program, after: Program, used: set[str]) -> bool:
    # Empty is as good as none: below an older supervisord, variables are emptied.
    old, new = before.environment.get(name, ""), after.environment.get(name, "")
    if old == new:
        return False
    if name in after.environment:
        # A mark that an older version did not make: its service is as it was.
        return not (name == CONFIGURATION_MARK or (name == SOFTWARE_VARIABLE and after.name == "gateway")) or bool(old)
    # Gone. An older version gave every service everything.
    return name in used


def _shown(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        return "(unset)"
    # Not even an address may show the password within it.
    hidden = urlsplit(value).password if "://" in value else None
    shown = redact(value.replace(hidden, "***") if hidden else value)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def _upgrade(before: str, after: str) -> str:
    if not before:
        return f"an upgrade, to {after}"
    old = before.split(", ")
    return "an upgrade: " + ", ".join(part for part in after.split(", ") if part not in old) + f", was {before}"


def _other_command(before: Sequence[str], after: Sequence[str]) -> str:
    if before[:1] != after[:1]:
        return f"another Python environment: {before[0]} → {after[0]}"
    gone = [word for word in before if word not in after]
    new = [word for word in after if word not in before]
    return f"its command changed: {redact(' '.join(gone)) or '–'} → {redact(' '.join(new)) or '–'}"


def shell_names(settings: Settings) -> dict[str, set[str]]:
    """Names of the variables that each service has, or is about to get, of a shell."""
    kept, given = kept_environments(settings) or {}, shell_environments(settings)
    return {name: {*kept.get(name, {}), *given[name]} for name in SERVICE_NAMES}


def shell_notes(settings: Settings) -> list[tuple[str, str]]:
    """Say which variables of this shell a running service does not get, and how it would: service and sentence."""
    return [
        (name, f"does not get this shell's {', '.join(names)}; `weighbridge restart {name}` would take it over")
        for name, names in other_values(settings).items()
    ]


def gateway_reasons(gateway: Gateway) -> dict[str, str]:
    """Reasons to start a gateway again that its program does not show."""
    if port := gateway.old_admin:
        return {"gateway": f"its admin interface is open at {port}"}
    return {"gateway": "an upgrade changed its configuration"} if gateway.is_outdated else {}


def await_pause(gateway: Gateway, report: ReportService) -> None:
    """Wait for a moment without requests before the gateway is started again, at most PAUSE_SECONDS."""
    deadline = time.monotonic() + PAUSE_SECONDS
    try:
        if gateway.client_requests():
            report("gateway", "waits for its requests to end")
        while (active := gateway.client_requests()) and time.monotonic() < deadline:
            time.sleep(0.1)
    except GatewayFailed:
        return
    if active:
        report("gateway", f"{active} requests did not end within {PAUSE_SECONDS:.0f} s and are cut")
