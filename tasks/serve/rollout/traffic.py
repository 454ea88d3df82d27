"""The one door to traffic: whatever gives a version a weight, or mirrored requests, does it here.

A version that gets more than it has must have standing in the audit log (`tasks/serve/standing.py`): it passed the
approval check with the very artifact that its engine serves, and was neither refused nor failed since. Taking weight
away needs no standing. Nothing else calls the gateway's `set_line`, `shift` or `set_mirror`; a test holds that.
A process whose traffic lock was taken over while it was frozen changes nothing here (`tasks/serve/rollout/lock.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from registry.audit import AuditLog
from tasks.serve.gateway import Backend, Gateway, LineRoute, Mirror, QueuedRequests
from tasks.serve.rollout.lock import require_held
from tasks.serve.standing import Standing, require_standing, standings, standings_by_line
from weighbridge.errors import ApprovalRefused, AuditBroken
from weighbridge.settings import Settings


def set_backends(
    gateway: Gateway,
    line: str,
    backends: Sequence[Backend],
    *,
    back_at: datetime | None = None,
    queued: QueuedRequests | None = None,
    returning: str = "",
) -> None:
    """Give a line exactly these backends and weights.

    Args:
        gateway: of the installation.
        line: the line's name.
        backends: with weights of 100 in all, or 0.
        back_at, queued: as in `Gateway.set_line`.
        returning: version that served when the failed rollout or swap began, and that gets its traffic back.

    Raises:
        ApprovalRefused: a version that would gain weight has no standing; nothing was changed.
        AuditBroken: the log proves nothing; nothing was changed.
        TrafficTakenOver: another process has the line's traffic by now; nothing was changed.
        GatewayFailed, DiskFull: as `Gateway.set_line`.
    """
    _require_standing(gateway, line, backends, returning)
    gateway.set_line(line, tuple(backends), back_at=back_at, queued=queued, fence=_fence(gateway, line))


def set_weights(gateway: Gateway, line: str, weights: dict[str, int], *, returning: str = "") -> None:
    """Change the weights of a line's backends.

    Args:
        gateway: of the installation.
        line: the line's name.
        weights: version to per cent, 100 in all; versions that are not named get 0.
        returning: as in `set_backends`.

    Raises:
        ApprovalRefused, AuditBroken, TrafficTakenOver, GatewayFailed, DiskFull: as `set_backends`.
    """
    route = gateway.routes().line(line)
    given = [backend.model_copy(update={"weight": weights.get(backend.version, 0)}) for backend in route.backends]
    _require_standing(gateway, line, given, returning)
    gateway.shift(line, weights, fence=_fence(gateway, line))


def mirror_requests(gateway: Gateway, line: str, mirror: Mirror | None) -> None:
    """Mirror a line's requests to a version; None ends it.

    Raises:
        ApprovalRefused, AuditBroken, TrafficTakenOver, GatewayFailed, DiskFull: as `set_backends`.
    """
    if mirror is not None:
        require_admitted(gateway.settings, line, gateway.routes().line(line).backend(mirror.version))
    gateway.set_mirror(line, mirror, fence=_fence(gateway, line))


def take_all_weight(gateway: Gateway, line: str) -> None:
    """Take the weights of all of a line's versions, and its mirror: it answers 503 from then on.

    Raises:
        TrafficTakenOver, GatewayFailed, DiskFull: as `set_backends`.
    """
    route, fence = gateway.routes().line(line), _fence(gateway, line)
    gateway.set_line(line, [backend.model_copy(update={"weight": 0}) for backend in route.backends], fence=fence)
    if route.mirror is not None:
        gateway.set_mirror(line, None, fence=fence)


def withdraw_unadmitted(gateway: Gateway) -> list[str]:
    """Take the weight of versions without standing, before a gateway that was down starts from its routes.

    The routes may be of before a refusal, or edited. The weight goes to the line's version with standing that has the
    most; without one the line answers 503. A broken log takes nothing from any line, because it proves nothing.

    Returns:
        A sentence for each version that lost its weight.
    """
    sentences: list[str] = []
    if not (routes := gateway.routes().lines):
        return sentences
    try:
        known_by_line = standings_by_line(AuditLog.of(gateway.settings))
    except AuditBroken as error:
        return [str(error)]
    for route in routes:
        known = known_by_line.get(route.line, {})
        used = [backend for backend in route.backends if backend.weight or _mirrored(route, backend)]
        problems = {backend.version: _problem(known, route.line, backend) for backend in used}
        if not any(problems.values()):
            continue
        sentences += [problem for problem in problems.values() if problem]
        _withdraw(gateway, route, known, {version for version, problem in problems.items() if problem})
    return sentences


def withdraw_engine(gateway: Gateway, engine_name: str) -> None:
    """Take an engine's version out of rotation; the weight goes where that of a version without standing goes.

    Args:
        gateway: of the installation.
        engine_name: the engine's.

    Raises:
        GatewayFailed, DiskFull: as `Gateway.set_line`.
    """
    for route in gateway.routes().lines:
        versions = {backend.version for backend in route.backends if backend.engine == engine_name}
        if versions:
            try:
                known = standings(AuditLog.of(gateway.settings), route.line)
            except AuditBroken:
                known = {}
            _withdraw(gateway, route, known, versions)


def _withdraw(gateway: Gateway, route: LineRoute, known: dict[int, Standing], versions: set[str]) -> None:
    """Take these versions' weights and mirror; the largest other one with standing inherits."""
    others = [backend for backend in route.backends if backend.weight and backend.version not in versions]
    allowed = [backend for backend in others if not _problem(known, route.line, backend)]
    heir = max(allowed, key=lambda backend: backend.weight, default=None)
    if any(backend.weight for backend in route.backends if backend.version in versions):
        backends = [backend.model_copy(update={"weight": 100 if backend is heir else 0}) for backend in route.backends]
        gateway.set_line(route.line, backends, wait=False)
    if route.mirror is not None and route.mirror.version in versions:
        gateway.set_mirror(route.line, None, wait=False)


def require_admitted(settings: Settings, line: str, backend: Backend) -> None:
    """Check the standing of a backend's version.

    Raises:
        ApprovalRefused, AuditBroken: it may not get traffic.
    """
    require_standing(standings(AuditLog.of(settings), line), line, backend.version, backend.digest)


def _fence(gateway: Gateway, line: str) -> Callable[[], None]:
    return partial(require_held, gateway.settings, line)


def _require_standing(gateway: Gateway, line: str, backends: Sequence[Backend], returning: str) -> None:
    present = {backend.version: backend for backend in gateway.routes().line(line).backends}
    # Nothing may keep traffic on a version that fails: it goes back, even while the log cannot be read.
    gaining = [backend for backend in backends if backend.version != returning and _gains(backend, present)]
    if gaining:
        known = standings(AuditLog.of(gateway.settings), line)
        for backend in gaining:
            require_standing(known, line, backend.version, backend.digest)


def _gains(backend: Backend, present: dict[str, Backend]) -> bool:
    known = present.get(backend.version)
    if known is None or known.digest != backend.digest:
        return backend.weight > 0
    return backend.weight > known.weight


def _mirrored(route: LineRoute, backend: Backend) -> bool:
    return route.mirror is not None and route.mirror.version == backend.version


def _problem(known: dict[int, Standing], line: str, backend: Backend) -> str:
    if backend.version.isdecimal() and known.get(int(backend.version), Standing()).disputed:
        return ""
    try:
        require_standing(known, line, backend.version, backend.digest)
    except ApprovalRefused as error:
        return str(error)
    return ""
