"""What serves: the registry's versions, beside the gateway's weights and the fleet's engines."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pydantic import BaseModel, ConfigDict

from registry.models.records import Version
from registry.models.registry import Registry
from stack.attendance import RolloutStatus, rollout_status
from stack.worker_life import is_stopped
from tasks.serve.fleet.protocol import RunningEngine
from tasks.serve.fleet.refusal import refusal
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from tasks.serve.installation import ServingInstallation
from tasks.serve.orphans import orphans
from tasks.serve.rollout.retire import engine_behind
from weighbridge.errors import GatewayFailed, StackDown
from weighbridge.line import line_names

LINES_AT_ONCE = 8
"""Lines of which MLflow is asked at the same time."""


class VersionStatus(BaseModel):
    """A version of a line, or what the gateway still routes to."""

    model_config = ConfigDict(frozen=True)

    version: int
    digest: str
    scheme: str = ""
    aliases: tuple[str, ...] = ()
    state: str = ""
    in_rotation: bool = False
    weight: int = 0
    """Per cent of the line's new requests."""
    engine: str = "–"
    """healthy, running, frozen (its process is stopped), refused (not the artifact that was weighed), or – for none."""
    reason: str = ""
    """Why its engine was refused, and what to do."""
    port: int = 0


class CandidateStatus(BaseModel):
    """A candidate without an approval."""

    model_config = ConfigDict(frozen=True)

    version: int
    digest: str
    scheme: str
    as_signed: bool = True
    """Whether its verdict is what the pipeline signed; else it cannot be approved."""


class LineStatus(BaseModel):
    """One line's versions and candidates."""

    model_config = ConfigDict(frozen=True)

    line: str
    serving: int | None
    """Version with all or most of the traffic."""
    versions: tuple[VersionStatus, ...]
    awaiting: tuple[CandidateStatus, ...] = ()
    rollout: RolloutStatus | None = None
    """A rollout that is not at its end, and who watches it."""
    registry_answers: bool = True


def line_statuses(installation: ServingInstallation, registry_answers: bool = True) -> list[LineStatus]:
    """Report every line that has a version or a backend; without MLflow, what the gateway knows.

    Args:
        installation: whose lines.
        registry_answers: whether MLflow is asked at all; a caller may know that it is down.
    """
    supervisor = Supervisor(installation.settings)
    running = {}
    if supervisor.answers():
        running = {process.name: process.pid for process in supervisor.states() if process.state == "RUNNING"}
    frozen = {name for name, pid in running.items() if is_stopped(pid)}
    engines = [engine for engine in installation.fleet.engines() if engine.name in running]
    # A line without a file may still serve.
    lost = {orphan.line for orphan in orphans(installation.settings)}
    names = sorted({*line_names(installation.settings.root / "lines"), *lost})
    with ThreadPoolExecutor(LINES_AT_ONCE) as pool:
        asked = names if registry_answers else []
        registered = dict(zip(asked, pool.map(partial(_registered, installation.registry), asked), strict=True))
    registry_answers = registry_answers and None not in registered.values()
    statuses = []
    for name in names:
        versions, awaiting = registered.get(name) or ([], ())
        rows, serving = _rows(installation, engines, frozen, name, versions)
        if rows or awaiting:
            rolling = any(version.state == "rolling" for version in versions)
            statuses.append(
                LineStatus(
                    line=name,
                    serving=serving,
                    versions=rows,
                    awaiting=awaiting,
                    rollout=rollout_status(installation.settings, installation.gateway.routes().line(name), rolling),
                    registry_answers=registry_answers,
                )
            )
    return statuses


def _registered(registry: Registry, name: str) -> tuple[list[Version], tuple[CandidateStatus, ...]] | None:
    """Read a line's versions, and the candidates without one; None if MLflow does not answer."""
    try:
        versions = registry.versions(name)
        approved = {version.digest for version in versions}
        return versions, tuple(
            CandidateStatus(
                version=candidate.version,
                digest=candidate.digest,
                scheme=candidate.scheme,
                as_signed=registry.is_as_signed(candidate),
            )
            for candidate in registry.candidates(name)
            if candidate.digest not in approved
        )
    except StackDown:
        return None


def _rows(
    installation: ServingInstallation,
    engines: list[RunningEngine],
    frozen: Collection[str],
    name: str,
    versions: list[Version],
) -> tuple[tuple[VersionStatus, ...], int | None]:
    """Return a line's versions beside what the gateway routes to, and the version with most of the traffic."""
    gateway = installation.gateway
    backends = {backend.version: backend for backend in gateway.routes().line(name).backends}
    rows = {str(version.version): _status_of(version) for version in versions}
    for number, backend in backends.items():
        row = rows.get(number) or VersionStatus(version=int(number), digest=backend.digest)
        engine = "–"
        if (behind := engine_behind(backend, engines)) is not None:
            engine = "healthy" if _healthy(gateway, name, number) else "running"
            engine = "frozen" if behind.name in frozen else engine
        refused = refusal(installation.settings, backend.engine) if engine != "healthy" and backend.engine else None
        rows[number] = row.model_copy(
            update={
                "in_rotation": True,
                "weight": backend.weight,
                "port": backend.endpoints[0].port,
                "engine": "refused" if refused else engine,
                "reason": str(refused or ""),
            }
        )
    serving = max(backends.values(), key=lambda backend: backend.weight, default=None)
    ordered = tuple(sorted(rows.values(), key=lambda row: row.version))
    return ordered, int(serving.version) if serving and serving.weight else None


def _healthy(gateway: Gateway, line_name: str, version: str) -> bool:
    try:
        return gateway.counters(line_name, version).healthy
    except GatewayFailed:
        return False


def _status_of(version: Version) -> VersionStatus:
    return VersionStatus(
        version=version.version,
        digest=version.digest,
        scheme=version.scheme,
        aliases=version.aliases,
        state=version.state or "approved",
    )
