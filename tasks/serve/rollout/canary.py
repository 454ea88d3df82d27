"""The way up: a shadow first where the line has it, then each weight; go on, or take the new version back.

A step ends early when the new version is *shown* to be worse than production on the same traffic. It ends
well after `hold_seconds`, `min_requests` answers, and a decision on what it waits for; at `max_hold_seconds`
the line says what happens with what only looks worse. Quality is not judged here: that was weighed.
"""

from __future__ import annotations

from collections.abc import Callable

from tasks.serve.fleet.protocol import RunningEngine
from tasks.serve.gateway import Backend, Gateway, Shadow
from tasks.serve.rollout.canary_step import Hold, StepReport
from tasks.serve.rollout.disk_reserve import keep_reserve, with_reserve
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.window import Sample
from weighbridge.errors import RolloutAborted
from weighbridge.line import Line, ShadowStep


def roll_out(
    line: Line,
    version: str,
    engine: RunningEngine,
    gateway: Gateway,
    lock: TrafficLock,
    tell: Callable[[str], None] = lambda _: None,
    note: Callable[[StepReport], None] = lambda _: None,
) -> list[StepReport]:
    """Shift a line's traffic to a version through the line's steps; goes on where a killed rollout stopped.

    Args:
        line: whose traffic.
        version: name of the new version at the gateway.
        engine: the warm engine that serves it.
        lock: held by the caller; watched for a rollback that wants it.
        tell: called with a sentence at each step.
        note: called with each step's report, also with that of the step that ends the rollout.

    Raises:
        RolloutAborted: a step was judged worse, the engine went down, or a rollback wants the line; traffic
            is back where it was and the new version drained.
        GatewayFailed: Envoy stays away; the weights stay as they are until the next run.
        DiskFull: the next weight cannot be written; the same.
    """
    keep_reserve(gateway.settings)
    gateway.set_sticky(line.name, line.rollout.sticky_by)
    backends = {one.version: one for one in gateway.routes().line(line.name).backends}
    others = [one for one in backends.values() if one.version != version]
    old = max(others, key=lambda one: one.weight, default=None)
    if version not in backends:
        backends[version] = _backend(version, engine, 0)
    elif backends[version] != _backend(version, engine, backends[version].weight):
        backends[version] = _backend(version, engine, backends[version].weight)
    if old is None or old.weight == 0:
        backends = {name: one.model_copy(update={"weight": 0}) for name, one in backends.items()}
        backends[version] = backends[version].model_copy(update={"weight": 100})
        gateway.set_line(line.name, tuple(backends.values()))
        tell(f"{line.name}: version {version} takes all traffic; nothing served before")
        report = StepReport(weight=100, seconds=0, requests=0, errors=0, ended="nothing served before")
        note(report)
        return [report]
    gateway.set_line(line.name, tuple(backends.values()))
    climb = _Climb(line, version, old.version, engine, tuple(backends), gateway, lock, tell, note)
    if line.rollout.shadow is not None and backends[version].weight == 0:
        climb.shadow(line.rollout.shadow)
    for weight in line.rollout.steps:
        if weight >= backends[version].weight:
            climb.step(weight)
    return climb.reports


def switch(line: str, version: str, engine: RunningEngine, gateway: Gateway) -> None:
    """Give a version all of a line's new requests at once; the others keep the streams that they have."""
    backends = {one.version: one.model_copy(update={"weight": 0}) for one in gateway.routes().line(line).backends}
    backends[version] = _backend(version, engine, 100)
    with_reserve(gateway.settings, lambda: gateway.set_line(line, tuple(backends.values())))


def _backend(version: str, engine: RunningEngine, weight: int) -> Backend:
    return Backend(
        version=version,
        digest=engine.artifact.digest,
        engine=engine.name,
        endpoints=engine.endpoints,
        weight=weight,
        health_path=engine.health_path,
    )


class _Climb:
    """The steps of one rollout, and what they share."""

    def __init__(
        self,
        line: Line,
        version: str,
        old: str,
        engine: RunningEngine,
        versions: tuple[str, ...],
        gateway: Gateway,
        lock: TrafficLock,
        tell: Callable[[str], None],
        note: Callable[[StepReport], None],
    ) -> None:
        self._line, self._version, self._old, self._engine, self._versions = line, version, old, engine, versions
        self._gateway, self._lock, self._tell, self._note = gateway, lock, tell, note
        # At 100 % nobody asks production any more: what it did during the steps before stands for it.
        self._reference = Sample()
        self.reports: list[StepReport] = []

    def shadow(self, shadow: ShadowStep) -> None:
        """Ask the new version beside the old one, which alone is heard."""
        hold = self._hold(0, shadow)
        self._gateway.set_shadow(self._line.name, Shadow(version=self._version, per_cent=shadow.per_cent))
        self._tell(f"{self._line.name}: version {self._version} is asked {shadow.per_cent} % too, and not heard")
        try:
            problem = hold.stay()
        finally:
            with_reserve(self._gateway.settings, lambda: self._gateway.set_shadow(self._line.name, None))
        self._end(hold, problem)

    def step(self, weight: int) -> None:
        """Give the new version a share of the requests."""
        hold = self._hold(weight)
        self._gateway.shift(self._line.name, self._weights(weight))
        self._tell(f"{self._line.name}: version {self._version} gets {weight} %")
        problem = hold.stay()
        if problem:
            with_reserve(self._gateway.settings, lambda: self._gateway.shift(self._line.name, self._weights(0)))
        self._end(hold, problem)

    def _hold(self, weight: int, shadow: ShadowStep | None = None) -> Hold:
        return Hold(self._line, self._version, self._old, weight, self._gateway, self._lock, self._reference, shadow)

    def _weights(self, weight: int) -> dict[str, int]:
        return {
            name: weight if name == self._version else 100 - weight if name == self._old else 0
            for name in self._versions
        }

    def _end(self, hold: Hold, problem: str) -> None:
        report, line = hold.report, self._line
        self.reports.append(report)
        self._note(report)
        self._tell(f"{line.name}: version {self._version} at {report.name}: {report.ended}")
        self._reference.extend(hold.production)
        if not problem:
            return
        if not self._lock.asked_to_give_way:
            # Whoever waits for the lock wants the traffic now; `retire` drains later.
            self._gateway.wait_drained(line.name, self._version, line.rollout.drain_seconds)
        raise RolloutAborted(
            f"Version {self._version} of {line.name} was stopped at {report.name}: {problem}.",
            f"Version {self._old} has all traffic {'as before' if report.shadow else 'again'}; read the engine's log "
            f"({self._engine.name}) for the cause.",
        )
