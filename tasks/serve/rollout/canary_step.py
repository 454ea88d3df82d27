"""The stay at one step: look at both versions until one is shown to be worse, or it has been held long enough."""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict

from tasks.serve.gateway import BackendCounters, Gateway, access_log, shadow_log
from tasks.serve.rollout.envoy_counters import Counted
from tasks.serve.rollout.judge import FEWEST, Looks, Moment, Signal, judge
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.window import Sample, Window
from weighbridge.errors import GatewayFailed
from weighbridge.line import Line, ShadowStep

UNHEALTHY_SECONDS = 10.0
"""An engine may miss a health check; one that misses them this long is down."""

GATEWAY_AWAY_SECONDS = 60.0
"""How long a step waits for an Envoy that died: supervisord starts it again within seconds."""

POLL_SECONDS = 0.5

SURELY_MIRRORED = 10
"""Where chance should have mirrored so many requests, it mirrors none once in 22,000 times (e to the -10)."""


class StepReport(BaseModel):
    """What one step of a rollout saw of the new version."""

    model_config = ConfigDict(frozen=True)

    weight: int
    shadow: int = 0
    """Per cent of the requests that it was asked too while its weight was 0, and not heard."""
    seconds: float
    requests: int
    """Of the new version, counted by the gateway; those still being answered are among them once they began."""
    errors: int
    """Of these, 5xx and connections cut."""
    signals: tuple[Signal, ...] = ()
    """As of the last look; none where there was too little to look at."""
    ended: str = ""
    """Why it ended, in words."""

    @property
    def name(self) -> str:
        """The step, for a person."""
        return f"shadow of {self.shadow} %" if self.shadow else f"{self.weight} %"


class Hold:
    """The stay at one step.

    Args:
        reference: production's requests of an earlier step, for one at which it gets none.
        shadow: at a step at which the new version answers nobody, how many per cent it is asked beside.
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
        shadow: ShadowStep | None = None,
    ) -> None:
        self._line, self._plan, self._version, self._old = line.name, line.rollout, version, old
        self._gateway, self._lock, self._reference = gateway, lock, reference
        self._weight, self._shadow = weight, shadow
        self._hold_seconds = shadow.hold_seconds if shadow else line.rollout.hold_seconds
        self._window = Window(access_log(gateway.settings), line.name)
        self._shadows = Window(shadow_log(gateway.settings), line.name) if shadow else self._window
        self._looks = Looks(len(line.rollout.steps) + (line.rollout.shadow is not None))
        self._start = self._healthy_at = self._seen_at = time.monotonic()
        self._counted = Counted(gateway, line.name, (version, old))
        self._signals: tuple[Signal, ...] = ()
        self.report = StepReport(weight=weight, shadow=self._shadow_per_cent, seconds=0, requests=0, errors=0)

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
            if self._shadows is not self._window:
                self._shadows.read()
            ours = self._shadows.of(self._version)
            due = seconds >= self._hold_seconds and self._requests >= self._plan.min_requests
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
    def _shadow_per_cent(self) -> int:
        return self._shadow.per_cent if self._shadow else 0

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
            elif unmirrored := self._unmirrored():
                problems.append(f"none of production's {unmirrored} requests was mirrored; restart the gateway")
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

    def _unmirrored(self) -> int:
        """Production's requests, where some should have reached a shadow: an older Envoy may still run, without one."""
        asked = self._counted.begun(self._old)
        if self._counted.begun(self._version) or asked * self._shadow_per_cent < 100 * SURELY_MIRRORED:
            return 0
        return asked

    def _end(self, seconds: float, why: str, problem: str) -> str:
        self.report = StepReport(
            weight=self._weight,
            shadow=self._shadow_per_cent,
            seconds=seconds,
            requests=self._requests,
            errors=self._counted.errors(self._version),
            signals=self._signals,
            ended=why,
        )
        return problem
