"""What serves, as registry, gateway and fleet record it; and what the registry says of a rollout meanwhile."""

from __future__ import annotations

from registry.models.records import Version
from tasks.serve.approval import OUT
from tasks.serve.installation import ServingInstallation
from tasks.serve.rollout import rollback
from tasks.serve.rollout.lock import require_held
from tasks.serve.rollout.retire import engine_behind, retire
from tasks.steps import run_logger
from weighbridge.errors import StackDown, VersionUnknown
from weighbridge.line import Line


def retire_engines(installation: ServingInstallation, line: Line) -> None:
    """Note which engines serve, and drain and stop those that are out of rotation and no longer kept warm.

    Raises:
        TrafficTakenOver: another process moves the line's traffic by now.
    """
    require_held(installation.settings, line.name)
    gateway, fleet = installation.gateway, installation.fleet
    engines = fleet.engines(line.name)
    backends = gateway.routes().line(line.name).backends
    serving = [engine_behind(backend, engines) for backend in backends if backend.weight > 0]
    for engine in engines:
        fleet.mark_rotation(engine, engine in serving)
    note_served(installation, line)
    installation.registry.reconcile(line.name)
    retire(line, gateway, fleet, run_logger().info)


def record_serving(installation: ServingInstallation, line: Line, target: Version) -> None:
    """Record that a version serves, as far as that is not recorded yet: a kill may have come between any two writes.

    Args:
        target: as it was read since this run has the line's lock.

    Raises:
        TrafficTakenOver: another process moves the line's traffic by now.
    """
    require_held(installation.settings, line.name)
    registry, name = installation.registry, line.name
    production = registry.production(name)
    if production is None or production.version != target.version:
        if production is not None:
            registry.set_previous(name, production.version)
            if production.state != "rolled_back":
                registry.set_state(name, production.version, "previous")
        registry.set_production(name, target.version)
    if target.state != "serving":
        registry.set_state(name, target.version, "serving")
    for older in registry.waiting(name):
        if older.version < target.version:
            registry.set_state(name, older.version, "retired", f"superseded by version {target.version}")


def note_served(installation: ServingInstallation, line: Line) -> None:
    """Keep the registry's word on a line where a rollback finds it at once."""
    registry = installation.registry
    production, previous = registry.production(line.name), registry.previous(line.name)
    if production is not None:
        kept = previous.version if previous is not None else None
        rollback.note_served(installation.settings, line.name, production.version, kept)


def withdrawal(installation: ServingInstallation, target: Version) -> str:
    """Why a version that rolls out may get no more traffic: a person refused it, or changed what it names."""
    try:
        now = installation.registry.version(target.line, target.version)
    except VersionUnknown:
        return f"version {target.version} was deleted"
    except StackDown:
        # The log still decides; a rollout outlives MLflow.
        return ""
    if now.state in OUT:
        return f"its state was set to {now.state} ({now.state_reason or 'without a reason'})"
    return "" if now.digest == target.digest else f"it names the artifact {now.short} by now"
