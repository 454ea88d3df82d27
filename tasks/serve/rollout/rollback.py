"""The way back: traffic first, from what lies on this machine; the registry hears of it afterwards.

A rollback is written down (`<line>.going-back.json`) before traffic moves, and stays written until the
registry has it: whoever is killed in between, the next `rollback` or `promote` finishes it, and none undoes it.
What served before is kept in `<line>.served.json`, so that nobody waits for MLflow to be imported and asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.serve.gateway import Gateway, LineRoute
from tasks.serve.rollout.disk_reserve import with_reserve
from tasks.serve.rollout.lock import TrafficLock
from weighbridge.errors import GatewayFailed
from weighbridge.files import write_whole
from weighbridge.health import answers
from weighbridge.settings import Settings

LOCK_SECONDS = 120.0
"""A rollout lets go within seconds of being asked; one that is starting an engine only when that has started."""

HEALTH_SECONDS = 2.0

Kept = TypeVar("Kept", bound=BaseModel)


class Served(BaseModel):
    """What the registry last said of a line."""

    model_config = ConfigDict(frozen=True)

    production: int
    previous: int | None = None


class GoingBack(BaseModel):
    """A rollback that the registry does not have yet."""

    model_config = ConfigDict(frozen=True)

    to: int
    """Version of the registered model `<line>`."""
    reason: str


def served(settings: Settings, line: str) -> Served | None:
    """What served a line when a flow last looked; None when none has."""
    return _read(Served, _served_file(settings, line))


def note_served(settings: Settings, line: str, production: int, previous: int | None) -> None:
    """Keep what the registry says of a line."""
    write_whole(_served_file(settings, line), Served(production=production, previous=previous).model_dump_json())


def pending(settings: Settings, line: str) -> GoingBack | None:
    """A rollback that was begun and not recorded."""
    return _read(GoingBack, _intent_file(settings, line))


def begin(settings: Settings, line: str, to: int, reason: str) -> GoingBack:
    """Write a rollback down, on disk when this returns; the caller holds the traffic lock."""
    intent = GoingBack(to=to, reason=reason)
    with_reserve(settings, lambda: write_whole(_intent_file(settings, line), intent.model_dump_json()))
    return intent


def end(settings: Settings, line: str) -> None:
    """Forget a rollback that the registry has, or that cannot be."""
    _intent_file(settings, line).unlink(missing_ok=True)


def switch_warm(settings: Settings, line: str, to: int | None, reason: str) -> int | None:
    """Give an earlier version all new requests at once, where its engine is warm.

    Args:
        line: whose traffic.
        to: version of the registered model `<line>`; by default what served before.
        reason: kept with the version that is taken back.

    Returns:
        The version; None when what to go back to is not known here or not warm, and nothing was done.

    Raises:
        RolloutBusy: somebody else keeps the line's traffic.
        GatewayFailed: Envoy does not take it; the rollback stays written down.
        DiskFull: not even what is kept for this was enough.
    """
    gateway = Gateway(settings)
    if not gateway.routes().line(line).backends:
        return None
    # Before the lock: a rollout that gives way for it puts production back, which is what was asked for.
    target = to if to is not None else earlier(settings, gateway, line)
    if target is None:
        return None
    with TrafficLock(settings, line).acquire(LOCK_SECONDS, urgent=True):
        if not _warm(gateway.routes().line(line), str(target)):
            return None
        begin(settings, line, target, reason)
        with_reserve(settings, lambda: gateway.shift(line, {str(target): 100}))
    return target


def earlier(settings: Settings, gateway: Gateway, line: str) -> int | None:
    """What a rollback goes back to: that of a rollback under way; production while a rollout runs; else `previous`.

    Returns:
        None when nobody has noted what served.
    """
    if intent := pending(settings, line):
        return intent.to
    known = served(settings, line)
    if known is None:
        return None
    return before(gateway.routes().line(line), known.production, known.previous)


def before(route: LineRoute, production: int | None, previous: int | None) -> int | None:
    """What served before what serves: production while a rollout, or what became of one, keeps traffic from it."""
    shares = {one.version: one.weight for one in route.backends}
    return production if production is not None and shares.get(str(production), 0) < 100 else previous


def _warm(route: LineRoute, version: str) -> bool:
    """Whether the gateway has this version and its engine answers."""
    try:
        backend = route.backend(version)
    except GatewayFailed:
        return False
    return all(answers(f"{endpoint.url}{backend.health_path}", HEALTH_SECONDS) for endpoint in backend.endpoints)


def _served_file(settings: Settings, line: str) -> Path:
    return settings.home / "gateway" / f"{line}.served.json"


def _intent_file(settings: Settings, line: str) -> Path:
    return settings.home / "gateway" / f"{line}.going-back.json"


def _read(kind: type[Kept], path: Path) -> Kept | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        # Written whole or not at all: what cannot be read was edited, and the registry knows better.
        return None
