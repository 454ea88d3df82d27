"""Whether what serves is what the registry asks for: the flow asks, and before it the command, without Prefect."""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict

from registry.models.records import Version
from tasks.serve.approval import require_same_artifact
from tasks.serve.installation import ServingInstallation
from tasks.serve.rollout import rollback
from tasks.serve.rollout.retire import engine_behind
from weighbridge.errors import ApprovalRefused
from weighbridge.line import Line


class Settled(BaseModel):
    """What serves a line that needs no promotion; the fields of a promotion that changed nothing."""

    model_config = ConfigDict(frozen=True)

    line: str
    version: int | None
    """None if nothing is approved and nothing serves."""
    digest: str = ""
    scheme: str = ""
    changed: bool = False
    steps: tuple[()] = ()


def requested_version(installation: ServingInstallation, line: Line, number: int | None) -> Version | None:
    """The version that is to serve: the one named, else the newest approval, else the alias `production`.

    Raises:
        VersionUnknown: there is no version of that number.
    """
    registry = installation.registry
    if number is not None:
        return registry.version(line.name, number)
    waiting = registry.waiting(line.name)
    return max(waiting, key=lambda version: version.version) if waiting else registry.production(line.name)


def is_serving(installation: ServingInstallation, line: Line, target: Version) -> bool:
    """True if gateway, registry, engine and audit log agree that this version has all traffic."""
    production = installation.registry.production(line.name)
    if production is None or production.version != target.version:
        return False
    backends = installation.gateway.routes().line(line.name).backends
    serving = [backend for backend in backends if backend.weight > 0]
    if [backend.version for backend in serving] != [str(target.version)] or serving[0].digest != target.digest:
        return False
    engine = engine_behind(serving[0], installation.fleet.engines(line.name))
    if engine is None or engine.artifact.digest != target.digest or serving[0].is_outdated(engine.endpoints):
        return False
    try:
        require_same_artifact(installation, line, target)
    except ApprovalRefused:
        # The approval check says so again, with the reason for the reviewer.
        return False
    return installation.fleet.is_warm(engine)


def settled(installation: ServingInstallation, line: Line, number: int | None) -> Settled | None:
    """Find out whether a promotion would change nothing; None if it has to look closer.

    Args:
        installation: whose registry, gateway and fleet.
        line: the line.
        number: of the version that is to serve; by default what the registry asks for.

    Raises:
        VersionUnknown: there is no version of that number.
        StackDown, RegistryFailed: MLflow does not answer.
    """
    if rollback.pending(installation.settings, line.name) is not None or installation.outbox.waiting(line.name):
        return None
    target = requested_version(installation, line, number)
    if target is None:
        return Settled(line=line.name, version=None) if not _something_to_retire(installation, line) else None
    if target.state != "serving" or not is_serving(installation, line, target):
        return None
    if _something_to_retire(installation, line):
        return None
    return Settled(line=line.name, version=target.version, digest=target.digest, scheme=target.scheme)


def _something_to_retire(installation: ServingInstallation, line: Line) -> bool:
    """True if a mirror, a version out of rotation or an engine may have to go."""
    gateway, fleet = installation.gateway, installation.fleet
    route, engines = gateway.routes().line(line.name), fleet.engines(line.name)
    engine_of = {backend.version: engine_behind(backend, engines) for backend in route.backends}
    warm = [engine_of[backend.version] for backend in route.backends if backend.weight == 0]
    kept_until = time.time() - line.rollout.keep_warm_minutes * 60
    if route.mirror is not None or len(warm) > 1 or any(fleet.out_since(engine) <= kept_until for engine in warm):
        return True
    return any(engine not in engine_of.values() and not fleet.on_trial(engine) for engine in engines)
