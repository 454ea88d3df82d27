"""What serves: the registry's versions beside the gateway's weights and the fleet's engines."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from registry.models.records import Version
from registry.models.registry import Registry
from tasks.serve.fleet.protocol import fleet_of
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway
from weighbridge.errors import GatewayFailed, StackDown
from weighbridge.line import line_names
from weighbridge.settings import Settings


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
    """running and healthy, running, or – for none."""
    port: int = 0


class CandidateStatus(BaseModel):
    """A candidate that nobody has approved yet."""

    model_config = ConfigDict(frozen=True)

    version: int
    digest: str
    scheme: str


class LineStatus(BaseModel):
    """One line."""

    model_config = ConfigDict(frozen=True)

    line: str
    serving: int | None
    """Version with all or most of the traffic."""
    versions: tuple[VersionStatus, ...]
    awaiting: tuple[CandidateStatus, ...] = ()
    registry_answers: bool = True


def lines(settings: Settings) -> list[LineStatus]:
    """Every line that has a version or a backend; what serves is told even when MLflow is down."""
    gateway, registry = Gateway(settings), Registry()
    supervisor = Supervisor(settings)
    running = {one.name for one in supervisor.states() if one.state == "RUNNING"} if supervisor.answers() else set()
    engines = [engine for engine in fleet_of(settings).engines() if engine.name in running]
    found, answers = [], True
    for name in line_names(settings.root / "lines"):
        versions: list[Version] = []
        candidates: list[Version] = []
        if answers:
            try:
                versions, candidates = registry.versions(name), registry.candidates(name)
            except StackDown:
                answers = False
        routes = {one.version: one for one in gateway.routes().line(name).backends}
        rows = {str(one.version): _row(one) for one in versions}
        for version, backend in routes.items():
            row = rows.get(version) or VersionStatus(version=int(version), digest=backend.digest)
            engine = "–"
            if any(backend.runs_on(one.name, one.endpoints) for one in engines):
                engine = "healthy" if _healthy(gateway, name, version) else "running"
            rows[version] = row.model_copy(
                update={
                    "in_rotation": True,
                    "weight": backend.weight,
                    "port": backend.endpoints[0].port,
                    "engine": engine,
                }
            )
        approved = {one.digest for one in versions}
        if rows or candidates:
            serving = max(routes.values(), key=lambda one: one.weight, default=None)
            found.append(
                LineStatus(
                    line=name,
                    serving=int(serving.version) if serving and serving.weight else None,
                    versions=tuple(sorted(rows.values(), key=lambda one: one.version)),
                    awaiting=tuple(
                        CandidateStatus(version=one.version, digest=one.digest, scheme=one.scheme)
                        for one in candidates
                        if one.digest not in approved
                    ),
                    registry_answers=answers,
                )
            )
    return found


def _healthy(gateway: Gateway, line: str, version: str) -> bool:
    try:
        return gateway.counters(line, version).healthy
    except GatewayFailed:
        return False


def _row(one: Version) -> VersionStatus:
    return VersionStatus(
        version=one.version, digest=one.digest, scheme=one.scheme, aliases=one.aliases, state=one.state or "approved"
    )
