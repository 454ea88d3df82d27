"""The way up: hold each weight for a time, look at both versions, and go on or take the new one back.

A step ends early when the new version is *shown* to be worse than production on the same traffic. It ends
well after `hold_seconds`, `min_requests` answers, and a decision on what it waits for; at `max_hold_seconds`
the line says what happens with what only looks worse. Quality is not judged here: that was weighed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from tasks.serve.fleet.local import RunningEngine
from tasks.serve.gateway import Backend, BackendCounters, Gateway, access_log
from tasks.serve.rollout.counted import Counted
from tasks.serve.rollout.judge import FEWEST, Looks, Moment, Signal, judge
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.reserve import keep_reserve, with_reserve
from tasks.serve.rollout.window import Sample, Window
from weighbridge.errors import GatewayFailed, RolloutAborted
from weighbridge.line import Line

UNHEALTHY_SECONDS = 10.0
"""An engine may miss a health check; one that misses them this long is down."""

GATEWAY_AWAY_SECONDS = 60.0
"""How long a step waits for an Envoy that died: supervisord starts it again within seconds."""

POLL_SECONDS = 0.5


class StepReport(BaseModel):
    """What one step of a rollout saw of the new version."""

    model_config = ConfigDict(frozen=True)

    weight: int
    seconds: float
    requests: int
    """Of the new version, counted by the gateway; those still being answered are among them once they began."""
    errors: int
    """Of these, 5xx and connections cut."""
    signals: tuple[Signal, ...] = ()
    """As of the last look; none where there was too little to look at."""
    ended: str = ""
    """Why it ended, in words."""


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
    elif backends[version].port != engine.port:
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
    reports = []
    reference = Sample()
    for weight in line.rollout.steps:
        if weight < backends[version].weight:
            continue
        hold = _Hold(line, version, old.version, weight, gateway, lock, reference)
        gateway.shift(line.name, _weights(backends, version, old.version, weight))
        tell(f"{line.name}: version {version} gets {weight} %")
        problem = hold.stay()
        if problem:
            none = _weights(backends, version, old.version, 0)
            with_reserve(gateway.settings, lambda none=none: gateway.shift(line.name, none))  # type: ignore[misc]
        reports.append(hold.report)
        note(hold.report)
        tell(f"{line.name}: version {version} at {weight} %: {hold.report.ended}")
        if problem:
            if not lock.asked_to_give_way:
                # Whoever waits for the lock wants the traffic now; `retire` drains later.
                gateway.wait_drained(line.name, version, line.rollout.drain_seconds)
            raise RolloutAborted(
                f"Version {version} of {line.name} was stopped at {weight} %: {problem}.",
                f"Version {old.version} has all traffic again; read the engine's log ({engine.name}) for the cause.",
            )
        # At 100 % nobody asks production any more: what it did during the steps before stands for it.
        reference.extend(hold.production)
    return reports


def switch(line: str, version: str, engine: RunningEngine, gateway: Gateway) -> None:
    """Give a version all of a line's new requests at once; the others keep the streams that they have."""
    backends = {one.version: one.model_copy(update={"weight": 0}) for one in gateway.routes().line(line).backends}
    backends[version] = _backend(version, engine, 100)
    with_reserve(gateway.settings, lambda: gateway.set_line(line, tuple(backends.values())))


def _backend(version: str, engine: RunningEngine, weight: int) -> Backend:
    return Backend(
        version=version,
        digest=engine.artifact.digest,
        port=engine.port,
        weight=weight,
        health_path=engine.health_path,
    )


def _weights(backends: dict[str, Backend], new: str, old: str, weight: int) -> dict[str, int]:
    return {name: weight if name == new else 100 - weight if name == old else 0 for name in backends}


class _Hold:
    """The stay at one step.

    Args:
        reference: production's requests of an earlier step, for one at which it gets none.
    """

    def __init__(
        self,
        line: Line,
        version: str,
        old: str,
        weight: int,
        gateway: Gateway,
        lock: TrafficLock,
        reference: Sample,
    ) -> None:
        self._line, self._plan, self._version, self._old = line.name, line.rollout, version, old
        self._gateway, self._lock, self._reference = gateway, lock, reference
        self._weight = weight
        self._window = Window(access_log(gateway.settings), line.name)
        self._looks = Looks(len(line.rollout.steps))
        self._start = self._healthy_at = self._seen_at = time.monotonic()
        self._counted = Counted(gateway, line.name, (version, old))
        self._signals: tuple[Signal, ...] = ()
        self.report = StepReport(weight=weight, seconds=0, requests=0, errors=0)

    @property
    def production(self) -> Sample:
        """What production did during this step."""
        return self._window.of(self._old)

    def stay(self) -> str:
        """Stay until the step is over; what ends the rollout, or nothing."""
        while True:
            now = time.monotonic()
            seconds = now - self._start
            counters = self._count(now)
            self._window.read()
            ours = self._window.of(self._version)
            due = seconds >= self._plan.hold_seconds and self._requests >= self._plan.min_requests
            overdue = seconds >= self._plan.max_hold_seconds
            if (moment := self._looks.due(ours.requests, due, overdue)) is not None:
                self._look(ours, moment)
            if problem := self._stopped(now, counters) or self._worse():
                return self._end(seconds, problem, problem)
            # While nobody can see its health, the step neither ends well nor counts as held long enough.
            if counters is not None and counters.healthy:
                if due and self._counted.quiet:
                    return self._end(seconds, "nobody asked anything", "")
                if due and ours.requests >= FEWEST and not any(one.waits for one in self._signals):
                    return self._end(seconds, "no worse than production, as far as it waits for that", "")
                if overdue:
                    problem = self._unsure(ours, seconds)
                    return self._end(seconds, problem or "held as long as the line allows", problem)
            time.sleep(POLL_SECONDS)

    @property
    def _requests(self) -> int:
        return self._counted.requests(self._version)

    def _count(self, now: float) -> BackendCounters | None:
        """The new version's counters; None while Envoy is away."""
        try:
            counters = self._counted.read()[self._version]
        except GatewayFailed:
            if now - self._seen_at > GATEWAY_AWAY_SECONDS:
                raise
            return None
        self._seen_at = now
        self._healthy_at = now if counters.healthy else self._healthy_at
        return counters

    def _look(self, ours: Sample, moment: Moment) -> None:
        production = self.production if self._weight < 100 else self._reference
        self._signals = judge(ours, production, self._plan, self._looks.spend(moment, ours.requests))

    def _stopped(self, now: float, counters: BackendCounters | None) -> str:
        if self._lock.asked_to_give_way:
            return "a rollback was asked for"
        if counters is not None and now - self._healthy_at > UNHEALTHY_SECONDS:
            return f"its engine has failed every health check for {UNHEALTHY_SECONDS:.0f} s"
        return ""

    def _worse(self) -> str:
        return "; ".join(one.sentence for one in self._signals if one.outcome == "worse")

    def _unsure(self, ours: Sample, seconds: float) -> str:
        """What stops the rollout although nothing is shown, as the line has it."""
        plan = self._plan
        answers = {"errors": plan.when_errors_unsure, "speed": plan.when_speed_unsure}
        problems = [one.sentence for one in self._signals if one.leans_worse and answers[one.asks] == "stop"]
        if plan.when_errors_unsure == "stop":
            if self._stuck(ours, seconds):
                requests = self._counted.begun(self._version)
                problems.append(f"none of its {requests} requests has ended, by the access log")
            elif unlogged := self._unlogged(ours):
                problems.append(f"the access log has none of the {unlogged} requests that ended meanwhile")
        return f"not decided after {plan.max_hold_seconds:.0f} s: {'; '.join(problems)}" if problems else ""

    def _stuck(self, ours: Sample, seconds: float) -> bool:
        """Whether requests have begun and none has ended in a time in which production's slowest would have."""
        slowest_ms = max((*self.production.total_ms, *self._reference.total_ms), default=None)
        begun = self._counted.begun(self._version)
        if ours.requests or begun < FEWEST or slowest_ms is None:
            return False
        return 1000 * seconds > slowest_ms * self._plan.max_latency_ratio

    def _unlogged(self, ours: Sample) -> int:
        """Requests of both versions that have ended, where the log tells of none: a full disk keeps it from growing."""
        ended = sum(self._counted.ended(version) for version in (self._version, self._old))
        return ended if ended >= FEWEST and not ours.requests and not self.production.requests else 0

    def _end(self, seconds: float, why: str, problem: str) -> str:
        self.report = StepReport(
            weight=self._weight,
            seconds=seconds,
            requests=self._requests,
            errors=self._counted.errors(self._version),
            signals=self._signals,
            ended=why,
        )
        return problem
