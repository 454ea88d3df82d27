"""One canary step: compare both versions until one is shown to be worse, or the step was held long enough."""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict

from tasks.serve.gateway import BackendCounters, Gateway, access_log, mirror_log
from tasks.serve.rollout.envoy_counters import EnvoyCounts
from tasks.serve.rollout.error_budget import FEWEST_REQUESTS, ErrorBudget, Moment
from tasks.serve.rollout.judge import judge
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.signals import CanarySignal
from tasks.serve.rollout.window import Sample, Window
from weighbridge.errors import GatewayFailed
from weighbridge.line import Line, ShadowStep

UNHEALTHY_SECONDS = 10.0
"""An engine may miss a health check. One that misses all of them for this long is down."""

GATEWAY_AWAY_SECONDS = 60.0
"""How long a step waits for an Envoy that died: supervisord starts it again within seconds."""

POLL_SECONDS = 0.5

SURELY_MIRRORED = 10
"""If so many mirrored requests are expected, there is none with a probability of 1 in 22,000 (e to the -10)."""


class StepReport(BaseModel):
    """What one step of a rollout measured of the new version."""

    model_config = ConfigDict(frozen=True)

    weight: int
    mirror_per_cent: int = 0
    """Share of the requests that were mirrored to it while its weight was 0; responses discarded."""
    seconds: float
    requests: int
    """Requests to the new version whose response began, as counted by the gateway."""
    errors: int
    """Of these, 5xx and broken connections."""
    signals: tuple[CanarySignal, ...] = ()
    """Latest interim result; none if there were too few requests for one."""
    ended: str = ""
    """Why the step ended, in words."""

    @property
    def name(self) -> str:
        """The step in words."""
        return f"mirror of {self.mirror_per_cent} %" if self.mirror_per_cent else f"{self.weight} %"


class CanaryStep:
    """One step of a rollout, held until it is decided.

    Args:
        line: whose traffic.
        version: the new version.
        old: the version in production.
        weight: the new version's, per cent of the line's requests.
        reference: production's requests of earlier steps, for the step at which production gets none.
        mirror: set at the step at which the new version gets mirrored requests only.
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
        mirror: ShadowStep | None = None,
    ) -> None:
        self._line, self._rollout, self._version, self._old = line.name, line.rollout, version, old
        self._gateway, self._lock, self._reference = gateway, lock, reference
        self._weight, self._mirror = weight, mirror
        self._hold_seconds = mirror.hold_seconds if mirror else line.rollout.hold_seconds
        self._window = Window(access_log(gateway.settings), line.name)
        self._mirror_window = Window(mirror_log(gateway.settings), line.name) if mirror else self._window
        self._budget = ErrorBudget(len(line.rollout.steps) + (line.rollout.shadow is not None))
        self._start = self._healthy_at = self._gateway_up_at = time.monotonic()
        self._counts = EnvoyCounts(gateway, line.name, (version, old))
        self._signals: tuple[CanarySignal, ...] = ()
        self.report = StepReport(weight=weight, mirror_per_cent=self._mirror_per_cent, seconds=0, requests=0, errors=0)

    @property
    def production(self) -> Sample:
        """Production's requests during this step."""
        return self._window.of(self._old)

    def wait(self) -> str:
        """Wait until the step is over.

        Returns:
            The reason to stop the rollout; empty if the rollout goes on.

        Raises:
            TrafficTakenOver: another process moves this line's traffic by now.
            GatewayFailed: Envoy stays away.
        """
        while True:
            self._lock.require_held()
            now = time.monotonic()
            seconds = now - self._start
            counters = self._read_counters(now)
            self._window.read()
            if self._mirror_window is not self._window:
                self._mirror_window.read()
            candidate = self._mirror_window.of(self._version)
            due = seconds >= self._hold_seconds and self._requests >= self._rollout.min_requests
            overdue = seconds >= self._rollout.max_hold_seconds
            if (moment := self._budget.due(candidate.requests, due, overdue)) is not None:
                self._signals = self._interim_result(candidate, moment)
            if problem := self._interrupted(now, counters) or self._worse():
                return self._end(seconds, problem, problem)
            # While its health is unknown, the step neither passes nor counts time towards its hold.
            if counters is not None and counters.healthy:
                if due and self._counts.quiet:
                    return self._end(seconds, "no requests came", "")
                if due and candidate.requests >= FEWEST_REQUESTS and not any(signal.waits for signal in self._signals):
                    return self._end(seconds, "no worse than production in every signal that a step waits for", "")
                if overdue:
                    problem = self._undecided(candidate, seconds)
                    return self._end(seconds, problem or "held as long as the line allows", problem)
            time.sleep(POLL_SECONDS)

    @property
    def _mirror_per_cent(self) -> int:
        return self._mirror.per_cent if self._mirror else 0

    @property
    def _requests(self) -> int:
        return self._counts.requests(self._version)

    def _read_counters(self, now: float) -> BackendCounters | None:
        """The new version's counters; None while Envoy is away."""
        try:
            counters = self._counts.read()[self._version]
        except GatewayFailed:
            if now - self._gateway_up_at > GATEWAY_AWAY_SECONDS:
                raise
            return None
        self._gateway_up_at = now
        self._healthy_at = now if counters.healthy else self._healthy_at
        return counters

    def _interim_result(self, candidate: Sample, moment: Moment) -> tuple[CanarySignal, ...]:
        production = self.production if self._weight < 100 else self._reference
        return judge(candidate, production, self._rollout, self._budget.spend(moment, candidate.requests))

    def _interrupted(self, now: float, counters: BackendCounters | None) -> str:
        if self._lock.asked_to_give_way:
            return "a rollback was requested"
        if counters is not None and now - self._healthy_at > UNHEALTHY_SECONDS:
            return f"its engine has failed every health check for {UNHEALTHY_SECONDS:.0f} s"
        return ""

    def _worse(self) -> str:
        return "; ".join(signal.sentence for signal in self._signals if signal.outcome == "worse")

    def _undecided(self, candidate: Sample, seconds: float) -> str:
        """Reason to stop a rollout although nothing is shown, as the line has it; empty if there is none."""
        rollout = self._rollout
        when_unsure = {"errors": rollout.when_errors_unsure, "speed": rollout.when_speed_unsure}
        problems = [
            signal.sentence for signal in self._signals if signal.leans_worse and when_unsure[signal.asks] == "stop"
        ]
        if rollout.when_errors_unsure == "stop":
            if self._stuck(candidate, seconds):
                requests = self._counts.begun(self._version)
                problems.append(f"none of its {requests} requests has ended, by the access log")
            elif unlogged := self._unlogged(candidate):
                problems.append(f"the access log has none of the {unlogged} requests that ended meanwhile")
            elif unmirrored := self._unmirrored():
                problems.append(f"none of production's {unmirrored} requests was mirrored; restart the gateway")
        return f"not decided after {rollout.max_hold_seconds:.0f} s: {'; '.join(problems)}" if problems else ""

    def _stuck(self, candidate: Sample, seconds: float) -> bool:
        """True if requests have begun and none has ended in the time of production's slowest."""
        slowest_ms = max((*self.production.total_ms, *self._reference.total_ms), default=None)
        begun = self._counts.begun(self._version)
        if candidate.requests or begun < FEWEST_REQUESTS or slowest_ms is None:
            return False
        return 1000 * seconds > slowest_ms * self._rollout.max_latency_ratio

    def _unlogged(self, candidate: Sample) -> int:
        """Requests of both versions that ended without a line in the log, as on a full disk; 0 if it has any line."""
        ended = sum(self._counts.ended(version) for version in (self._version, self._old))
        return ended if ended >= FEWEST_REQUESTS and not candidate.requests and not self.production.requests else 0

    def _unmirrored(self) -> int:
        """Production's requests, if some should have been mirrored and none was: an older Envoy may still run."""
        production = self._counts.begun(self._old)
        if self._counts.begun(self._version) or production * self._mirror_per_cent < 100 * SURELY_MIRRORED:
            return 0
        return production

    def _end(self, seconds: float, why: str, problem: str) -> str:
        self.report = StepReport(
            weight=self._weight,
            mirror_per_cent=self._mirror_per_cent,
            seconds=seconds,
            requests=self._requests,
            errors=self._counts.errors(self._version),
            signals=self._signals,
            ended=why,
        )
        return problem
