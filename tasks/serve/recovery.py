"""What serves, for a backup; and serving it again on the machine where the backup was restored.

The routes of a backup name engines and ports of another machine. A restore leaves them in a file of their own, and
`up` starts each engine here, proves it, and only then gives it the traffic, through the one door that asks the audit
log (`rollout/traffic.py`). A line that cannot be served keeps its place in the file, for the next `up`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from registry.backup import RESTORED_ROUTES, ROOT, ROUTES_FILE, WATCH, Production, ServedVersion
from registry.store import Store
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.protocol import Report, RunningEngine
from tasks.serve.gateway import Backend, Gateway, LineRoute, Routes
from tasks.serve.rollout import rollback
from tasks.serve.rollout.canary import backend_of
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.traffic import set_backends
from weighbridge.errors import BackupFailed, WeighbridgeError
from weighbridge.files import write_whole
from weighbridge.line import Line
from weighbridge.settings import Settings

LOCK_SECONDS = 900
ROOT_FOLDERS = {"lines": {".yaml"}, "eval_suites": {".yaml", ".yml", ".jsonl", ".txt", ".md"}}
"""Folders of the root that are the user's, and the kinds of files in them. Programs are no part of a backup."""


def production_of(settings: Settings, *, with_previous: bool = False) -> Production:
    """Find what serves, and the files that serving needs.

    Args:
        settings: of the installation.
        with_previous: whether versions count too that are kept warm for a rollback.

    Raises:
        BackupFailed: no line has traffic.
        ArtifactMissing, ArtifactDamaged: the store does not have what a line serves.
        GatewayFailed: the routes cannot be read.
    """
    store, versions = Store.of(settings), list[ServedVersion]()
    for route in Gateway(settings).routes().lines:
        for backend in _kept(route) if with_previous else _kept(route)[:1]:
            artifact = store.get(route.line, backend.digest)
            serves = backend is _kept(route)[0]
            versions.append(ServedVersion(version=backend.version, serves=serves, artifact=artifact))
    if not versions:
        raise BackupFailed(
            "No line serves anything, so there is no production to back up.",
            "Leave out --with-production, or approve and promote a candidate first.",
            where=str(settings.home),
        )
    files = {ROUTES_FILE: settings.home / ROUTES_FILE}
    files |= {f"{WATCH}/{path.name}": path for path in sorted((settings.home / WATCH).glob("*.json"))}
    files |= {f"{ROOT}/{path.relative_to(settings.root).as_posix()}": path for path in _root_files(settings.root)}
    return Production(versions=tuple(versions), files=files)


def _kept(route: LineRoute) -> list[Backend]:
    """Return the version with the most traffic, then those that are kept warm; nothing for a line without traffic."""
    ordered = sorted(route.backends, key=lambda backend: -backend.weight)
    return ordered if ordered and ordered[0].weight else []


def _root_files(root: Path) -> Iterator[Path]:
    for folder, suffixes in ROOT_FOLDERS.items():
        for parent, _, names in os.walk(root / folder, followlinks=True):
            yield from (Path(parent, name) for name in sorted(names) if Path(name).suffix in suffixes)


def serve_restored(settings: Settings, report: Report) -> None:
    """Serve what a restored backup served; harmless where nothing was restored.

    Args:
        settings: of the installation, whose gateway and supervisord run.
        report: called with a sentence at each stage, and for each line that cannot be served.
    """
    path = settings.home / RESTORED_ROUTES
    if not path.is_file():
        return
    try:
        waiting = Routes.model_validate_json(path.read_bytes())
    except ValueError:
        report(f"The restored routes cannot be read ({path}); `weighbridge promote LINE` serves a line without them.")
        return
    for route in waiting.lines:
        try:
            with TrafficLock(settings, route.line).acquire(LOCK_SECONDS):
                _serve(settings, route, report)
        except WeighbridgeError as error:
            # One line must not keep the others down, and the next `up` tries again.
            report(f"{route.line} is not served yet: {error}")
            continue
        waiting = Routes(lines=tuple(other for other in waiting.lines if other.line != route.line))
        if waiting.lines:
            write_whole(path, waiting.model_dump_json(indent=2))
        else:
            path.unlink()


def _serve(settings: Settings, route: LineRoute, report: Report) -> None:
    """Start a line's engines, and give the traffic to the one that had the most of it."""
    gateway = Gateway(settings)
    if not _kept(route) or _kept(gateway.routes().line(route.line)):
        return
    line, store = Line.load(route.line), Store.of(settings)
    kept: list[Backend] = []
    for backend in _kept(route):
        if kept and not store.holds_locally(route.line, backend.digest):
            continue
        try:
            engine = fleet_of(settings).ensure(line, store.get(route.line, backend.digest), report)
        except WeighbridgeError as error:
            if not kept:
                raise
            report(f"{route.line}: version {backend.version} is not kept warm: {error}")
            continue
        kept.append(backend_of(backend.version, engine, 0 if kept else 100))
        _give(gateway, route, kept, engine)
    report(f"{route.line}: version {kept[0].version} serves again")
    _note(settings, route.line, [backend.version for backend in kept])


def _give(gateway: Gateway, route: LineRoute, backends: list[Backend], engine: RunningEngine) -> None:
    gateway.set_sticky(route.line, route.sticky_by)
    gateway.set_limits(route.line, route.limits)
    set_backends(gateway, route.line, backends)
    fleet_of(gateway.settings).mark_rotation(engine, len(backends) == 1)


def _note(settings: Settings, line: str, versions: list[str]) -> None:
    """Note where a quick rollback goes; the next promotion corrects it by the registry."""
    numbers = [int(version) for version in versions if version.isdecimal()]
    if len(numbers) == len(versions):
        rollback.note_served(settings, line, numbers[0], numbers[1] if len(numbers) > 1 else None)
