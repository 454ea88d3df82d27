"""Rollback: move traffic first, with this machine's files; update the registry afterwards.

A rollback is written down (`<line>.going-back.json`) before traffic moves, and stays written until the registry has
it. If the process is killed in between, the next `rollback` or `promote` finishes it, and none undoes it. What served
before is kept in `<line>.served.json`, so that a rollback need not import MLflow and ask it. This module imports
little, because people type `weighbridge rollback` at night and wait for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.serve.fleet.ports import answers_as_ours
from tasks.serve.gateway import Gateway, LineRoute
from tasks.serve.rollout.disk_reserve import with_reserve
from tasks.serve.rollout.holder import forget_holder
from tasks.serve.rollout.lock import Report, TrafficLock, say_nothing
from tasks.serve.rollout.traffic import require_admitted, set_weights
from weighbridge.errors import GatewayFailed
from weighbridge.files import write_whole
from weighbridge.settings import Settings

LOCK_SECONDS = 120.0
"""A rollout gives way within seconds; a flow that is starting an engine only when that has started."""

HEALTH_SECONDS = 2.0

Model = TypeVar("Model", bound=BaseModel)


class Served(BaseModel):
    """What serves a line by the registry's latest word."""

    model_config = ConfigDict(frozen=True)

    production: int
    previous: int | None = None


class PendingRollback(BaseModel):
    """A rollback that was begun and that the registry does not have yet."""

    model_config = ConfigDict(frozen=True)

    to: int
    """Version of the registered model `<line>`."""
    reason: str


def served(settings: Settings, line: str) -> Served | None:
    """Read what served a line when a flow last noted it; None if none did."""
    return _read(Served, _served_file(settings, line))


def note_served(settings: Settings, line: str, production: int, previous: int | None) -> None:
    """Keep what serves a line by the registry's word."""
    write_whole(_served_file(settings, line), Served(production=production, previous=previous).model_dump_json())


def pending(settings: Settings, line: str) -> PendingRollback | None:
    """Read the rollback that was begun and not recorded; None if there is none."""
    return _read(PendingRollback, _pending_file(settings, line))


def begin(settings: Settings, line: str, to: int, reason: str) -> PendingRollback:
    """Write a rollback down, synced to disk; the caller holds the traffic lock."""
    rollback = PendingRollback(to=to, reason=reason)
    with_reserve(settings, lambda: write_whole(_pending_file(settings, line), rollback.model_dump_json()))
    return rollback


def end(settings: Settings, line: str) -> None:
    """Forget a rollback that the registry has, or that cannot be done."""
    _pending_file(settings, line).unlink(missing_ok=True)


def forget(settings: Settings, line: str) -> None:
    """Forget what served a line that is retired."""
    end(settings, line)
    forget_holder(settings, line)
    _served_file(settings, line).unlink(missing_ok=True)


def switch_warm(settings: Settings, line: str, to: int | None, reason: str, report: Report = say_nothing) -> int | None:
    """Give an earlier version all new requests at once, if its engine is warm.

    Args:
        line: whose traffic.
        to: version of the registered model `<line>`; by default the one that served before.
        reason: kept with the version that loses its traffic.
        report: called with a sentence if a frozen process was moving the line's traffic.

    Returns:
        The version; None if the version to go back to is not known here or not warm, and nothing was done.

    Raises:
        ApprovalRefused: that version was refused, failed, or never passed the approval check; nothing was done.
        AuditBroken: the audit log proves nothing; nothing was done.
        RolloutBusy: another process keeps the line's traffic.
        GatewayFailed: Envoy does not take the change; the rollback stays written down.
        DiskFull: not even the reserve was enough.
    """
    gateway = Gateway(settings)
    if not gateway.routes().line(line).backends:
        return None
    # Before the lock: a rollout that gives way for it puts production back, which is the target.
    target = to if to is not None else rollback_target(settings, gateway, line)
    if target is None:
        return None
    backend = next((known for known in gateway.routes().line(line).backends if known.version == str(target)), None)
    if backend is None:
        return None
    # Before the lock too, for which a rollout gives way.
    require_admitted(settings, line, backend)
    with TrafficLock(settings, line).acquire(LOCK_SECONDS, urgent=True, report=report):
        if not _is_warm(gateway.routes().line(line), str(target)):
            return None
        begin(settings, line, target, reason)
        with_reserve(settings, lambda: set_weights(gateway, line, {str(target): 100}))
    return target


def rollback_target(settings: Settings, gateway: Gateway, line: str) -> int | None:
    """The version to go back to: that of a pending rollback; production during a rollout; else `previous`.

    Returns:
        None if no flow has noted what served.
    """
    if rollback := pending(settings, line):
        return rollback.to
    known = served(settings, line)
    if known is None:
        return None
    return version_before(gateway.routes().line(line), known.production, known.previous)


def version_before(route: LineRoute, production: int | None, previous: int | None) -> int | None:
    """The version that served before: production while a rollout takes traffic from it, else `previous`."""
    weights = {backend.version: backend.weight for backend in route.backends}
    return production if production is not None and weights.get(str(production), 0) < 100 else previous


def _is_warm(route: LineRoute, version: str) -> bool:
    """True if the gateway has this version and its engine answers."""
    try:
        backend = route.backend(version)
    except GatewayFailed:
        return False
    return all(answers_as_ours(endpoint, backend.health_path, HEALTH_SECONDS) for endpoint in backend.endpoints)


def _served_file(settings: Settings, line: str) -> Path:
    return settings.home / "gateway" / f"{line}.served.json"


def _pending_file(settings: Settings, line: str) -> Path:
    return settings.home / "gateway" / f"{line}.going-back.json"


def _read(kind: type[Model], path: Path) -> Model | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        # Written whole or not at all: an unreadable file was edited, and the registry knows better.
        return None
