"""How traffic moves: step by step to a new version, at once back to an old one, and never by dropping a request.

Each step is held for a time *and* for a number of answered requests, and judged by the share of server
errors and cut answers: it ends the rollout when that is shown, by an exact binomial test at 5 %, to be above
what the line allows, so that one unlucky request among three does not. What this does *not* judge is
quality, which was weighed before, and latency.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest

from tasks.serve.fleet.local import LocalFleet, RunningEngine
from tasks.serve.gateway import Backend, Gateway
from weighbridge.errors import RolloutAborted, RolloutBusy
from weighbridge.line import Line
from weighbridge.settings import Settings

SIGNIFICANCE = 0.05
UNHEALTHY_SECONDS = 10.0
"""An engine may miss a health check; one that misses them this long is down."""


class StepReport(BaseModel):
    """What one step of a rollout saw of the new version."""

    model_config = ConfigDict(frozen=True)

    weight: int
    seconds: float
    requests: int
    errors: int


class TrafficLock:
    """One mover of a line's traffic at a time; a rollback may ask the present one to give way.

    The lock is the operating system's, so it goes with the process that holds it, also by kill -9.
    """

    def __init__(self, settings: Settings, line: str) -> None:
        folder = settings.home / "gateway"
        folder.mkdir(parents=True, exist_ok=True)
        self._line = line
        self._give_way = folder / f"{line}.give-way"
        self._lock = FileLock(folder / f"{line}.traffic.lock")

    def acquire(self, wait_seconds: float, urgent: bool = False) -> TrafficLock:
        """Take the lock.

        Args:
            wait_seconds: how long to wait for it.
            urgent: ask the holder to put its traffic back and let go.

        Raises:
            RolloutBusy: somebody else still holds it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            if urgent:
                self._give_way.touch()
            try:
                self._lock.acquire(timeout=wait_seconds)
            except Timeout:
                raise RolloutBusy(
                    f"Another process is moving the traffic of {self._line}.",
                    "Wait for it (`weighbridge status` shows the weights), or run "
                    f"`weighbridge rollback {self._line}` to make it give way.",
                ) from None
        self._give_way.unlink(missing_ok=True)
        return self

    @property
    def asked_to_give_way(self) -> bool:
        """Whether a rollback waits for this lock."""
        return self._give_way.exists()

    def __enter__(self) -> TrafficLock:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def roll_out(
    line: Line,
    version: str,
    engine: RunningEngine,
    gateway: Gateway,
    lock: TrafficLock,
    tell: Callable[[str], None] = lambda _: None,
) -> list[StepReport]:
    """Shift a line's traffic to a version through the line's steps; goes on where a killed rollout stopped.

    Args:
        line: whose traffic.
        version: name of the new version at the gateway.
        engine: the warm engine that serves it.
        lock: held by the caller; watched for a rollback that wants it.
        tell: called with a sentence at each step.

    Raises:
        RolloutAborted: a step was judged worse, the engine went down, or a rollback wants the line; traffic
            is back where it was and the new version drained.
    """
    backends = {one.version: one for one in gateway.routes().line(line.name).backends}
    others = [one for one in backends.values() if one.version != version]
    old = max(others, key=lambda one: one.weight, default=None)
    if version not in backends:
        backends[version] = _backend(version, engine, 0)
    elif backends[version].port != engine.port:
        backends[version] = _backend(version, engine, backends[version].weight)
    if old is None or old.weight == 0:
        backends = {name: one.model_copy(update={"weight": 0}) for name, one in backends.items()}
        backends[version] = backends[version].model_copy(update={"weight": 100})
        gateway.set_line(line.name, tuple(backends.values()))
        tell(f"{line.name}: version {version} takes all traffic; nothing served before")
        return [StepReport(weight=100, seconds=0, requests=0, errors=0)]
    gateway.set_line(line.name, tuple(backends.values()))
    reports = []
    for weight in line.rollout.steps:
        if weight < backends[version].weight:
            continue
        gateway.shift(line.name, _weights(backends, version, old.version, weight))
        tell(f"{line.name}: version {version} gets {weight} %")
        report, problem = _hold(line, version, weight, gateway, lock)
        reports.append(report)
        if problem:
            gateway.shift(line.name, _weights(backends, version, old.version, 0))
            gateway.wait_drained(line.name, version, line.rollout.drain_seconds)
            raise RolloutAborted(
                f"Version {version} of {line.name} was stopped at {weight} %: {problem}.",
                f"Version {old.version} has all traffic again; read the engine's log ({engine.name}) for the cause.",
            )
    return reports


def switch(line: str, version: str, engine: RunningEngine, gateway: Gateway) -> None:
    """Give a version all of a line's new requests at once; the others keep the streams that they have."""
    backends = {one.version: one.model_copy(update={"weight": 0}) for one in gateway.routes().line(line).backends}
    backends[version] = _backend(version, engine, 100)
    gateway.set_line(line, tuple(backends.values()))


def _backend(version: str, engine: RunningEngine, weight: int) -> Backend:
    return Backend(
        version=version,
        digest=engine.artifact.digest,
        port=engine.port,
        weight=weight,
        health_path=engine.health_path,
    )


def retire(line: Line, gateway: Gateway, fleet: LocalFleet, tell: Callable[[str], None] = lambda _: None) -> None:
    """Drain and stop what is out of rotation and no longer kept warm.

    The latest one out of rotation stays for the line's `keep_warm_minutes`, so that going back is a change
    of weight. A backend goes only when it has no active request, an engine only after its backend.
    """
    routes = gateway.routes().line(line.name).backends
    engines = fleet.engines(line.name)
    out = [one for one in routes if one.weight == 0]
    by_port = {one.port: one for one in engines}
    latest_out = max(out, key=lambda one: fleet.out_since(by_port.get(one.port)), default=None)
    for backend in out:
        engine = by_port.get(backend.port)
        still_warm = time.time() - fleet.out_since(engine) < line.rollout.keep_warm_minutes * 60
        if engine is not None and backend is latest_out and still_warm:
            continue
        if not gateway.wait_drained(line.name, backend.version, line.rollout.drain_seconds):
            tell(f"version {backend.version} still has active requests; it is stopped by the next run")
            continue
        gateway.remove_backend(line.name, backend.version)
    used = {one.port for one in gateway.routes().line(line.name).backends}
    for engine in engines:
        if engine.port not in used and not fleet.on_trial(engine):
            tell(f"{engine.name} is drained and stopped")
            fleet.stop(engine)


def _weights(backends: dict[str, Backend], new: str, old: str, weight: int) -> dict[str, int]:
    return {name: weight if name == new else 100 - weight if name == old else 0 for name in backends}


def _hold(line: Line, version: str, weight: int, gateway: Gateway, lock: TrafficLock) -> tuple[StepReport, str]:
    """Stay at a step until it is long and busy enough; the problem that ends it early, or nothing."""
    plan = line.rollout
    before = gateway.counters(line.name, version)
    start = time.monotonic()
    healthy_at = start
    while True:
        now = time.monotonic()
        counters = gateway.counters(line.name, version)
        requests = counters.requests - before.requests
        errors = counters.errors_5xx + counters.broken - before.errors_5xx - before.broken
        report = StepReport(weight=weight, seconds=now - start, requests=requests, errors=errors)
        healthy_at = now if counters.healthy else healthy_at
        if lock.asked_to_give_way:
            return report, "a rollback was asked for"
        if now - healthy_at > UNHEALTHY_SECONDS:
            return report, f"its engine has failed every health check for {UNHEALTHY_SECONDS:.0f} s"
        if too_many_errors(requests, errors, plan.max_error_share):
            return report, f"{errors} of {requests} requests failed, and the line allows {plan.max_error_share:.1%}"
        held = now - start >= plan.hold_seconds and requests >= plan.min_requests
        if counters.healthy and (held or now - start >= plan.max_hold_seconds):
            return report, ""
        time.sleep(0.5)


def too_many_errors(requests: int, errors: int, allowed_share: float) -> bool:
    """Whether the true share of errors is shown to exceed what is allowed (exact binomial test, 5 %)."""
    if errors == 0 or requests == 0:
        return False
    return bool(binomtest(min(errors, requests), requests, allowed_share, alternative="greater").pvalue < SIGNIFICANCE)
