"""One canary step: compare both versions until one is shown to be worse, or the step was held long enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from tasks.serve.gateway import BackendCounters, Gateway, access_log, mirror_log
from tasks.serve.rollout.decision import Decision, Observed, StepDecision
from tasks.serve.rollout.envoy_counters import EnvoyCounts
from tasks.serve.rollout.error_budget import FEWEST_REQUESTS
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.sample import Sample
from tasks.serve.rollout.signals import CanarySignal
from tasks.serve.rollout.window import Window
from weighbridge.errors import GatewayFailed
from weighbridge.line import Line, Rollout, ShadowStep

UNHEALTHY_SECONDS = 10.0
"""An engine may miss a health check. One that misses all of them for this long is down."""

GATEWAY_AWAY_SECONDS = 60.0
"""How long a step waits for an Envoy that died: supervisord starts it again within seconds."""

POLL_SECONDS = 0.5
LONGEST_LOOK_SECONDS = 2.0
"""So much of the time between two looks counts for health: a process that was stopped or slept saw nothing."""

SURELY_MIRRORED = 10
"""If so many mirrored requests are expected, there is none with a probability of 1 in 22,000 (e to the -10)."""


SHORTEST_UNANSWERED_SECONDS = 2.0
"""No request counts as unanswered before, however quick production is."""


@dataclass
class Earlier:
    """Production's requests before a step."""

    all: Sample = field(default_factory=Sample)
    full_load: Sample = field(default_factory=Sample)
    """Those while it had the line's load: the last step, at which the new version has it, is compared with them."""


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
        earlier: production's requests before this step.
        mirror: set at the step at which the new version gets mirrored requests only.
        end_control: gives the new version all requests, at the step at which production has a few for comparison.
    """

    def __init__(
        self,
        line: Line,
        version: str,
        old: str,
        weight: int,
        gateway: Gateway,
        lock: TrafficLock,
        earlier: Earlier,
        mirror: ShadowStep | None = None,
        end_control: Callable[[], None] | None = None,
    ) -> None:
        self._line, self._rollout, self._version, self._old = line.name, line.rollout, version, old
        self._gateway, self._lock, self._earlier = gateway, lock, earlier
        self._weight, self._mirror, self._end_control = weight, mirror, end_control
        self._window = Window(access_log(gateway.settings), line.name)
        self._mirror_window = Window(mirror_log(gateway.settings), line.name) if mirror else self._window
        hold_seconds = mirror.hold_seconds if mirror else line.rollout.hold_seconds
        self._decision = StepDecision(line.rollout, hold_seconds, next_weight(line.rollout, weight))
        self._start = self._healthy_at = self._gateway_up_at = self._looked_at = time.monotonic()
        self._counts = EnvoyCounts(gateway, line.name, (version, old))
        self.report = StepReport(weight=weight, mirror_per_cent=self._mirror_per_cent, seconds=0, requests=0, errors=0)

    @property
    def production(self) -> Sample:
        """Production's requests during this step."""
        return self._window.of(self._old)

    def wait(self) -> Decision:
        """Wait until the step is over; the decision is never to wait.

        Raises:
            TrafficTakenOver: another process moves this line's traffic by now.
            GatewayFailed: Envoy stays away.
        """
        while True:
            self._lock.require_held()
            now = time.monotonic()
            self._leave_out_pause(now)
            counters = self._read_counters(now)
            self._window.read()
            if self._mirror_window is not self._window:
                self._mirror_window.read()
            observed = self._observe(now - self._start, counters)
            decision = self._decision.decide(observed)
            if problem := self._interrupted(now, counters):
                decision = Decision("stop", problem)
            elif observed.healthy and observed.seconds >= self._rollout.max_hold_seconds and decision.verb != "stop":
                decision = self._without_evidence(observed) or decision
            if decision.verb != "wait":
                return self._end(observed.seconds, decision)
            time.sleep(POLL_SECONDS)

    def _observe(self, seconds: float, counters: BackendCounters | None) -> Observed:
        candidate, production = self._mirror_window.of(self._version), self.production
        is_last = self._weight == 100
        reference = self._earlier.full_load if is_last else production
        if self._rollout.sticky_by != "none" and not is_last:
            # What a client asks of the new version is compared with what it asked of production before.
            reference = self._earlier.all.joined(production)
        longest_ms = max(filter(None, (production.longest_ms, self._earlier.all.longest_ms)), default=None)
        unanswered = 0
        if longest_ms is not None:
            longest_seconds = max(longest_ms / 1000 * self._rollout.max_latency_ratio, SHORTEST_UNANSWERED_SECONDS)
            new, old = (self._counts.unanswered(version, longest_seconds) for version in (self._version, self._old))
            unanswered = max(0, new - old)
        return Observed(
            seconds=seconds,
            candidate=candidate,
            production=reference,
            control=production if is_last else Sample(),
            begun=self._requests,
            unanswered=unanswered,
            quiet=self._counts.quiet,
            healthy=counters is not None and counters.healthy,
        )

    @property
    def _mirror_per_cent(self) -> int:
        return self._mirror.per_cent if self._mirror else 0

    @property
    def _requests(self) -> int:
        return self._counts.requests(self._version)

    def _leave_out_pause(self, now: float) -> None:
        """Count no time against the engine or Envoy in which this process did not look at them."""
        unseen = max(0.0, now - self._looked_at - LONGEST_LOOK_SECONDS)
        self._healthy_at, self._gateway_up_at = self._healthy_at + unseen, self._gateway_up_at + unseen
        self._looked_at = now

    def _read_counters(self, now: float) -> BackendCounters | None:
        """The new version's counters; None while Envoy is away."""
        try:
            found = self._counts.read()
        except GatewayFailed:
            if now - self._gateway_up_at > GATEWAY_AWAY_SECONDS:
                raise
            return None
        counters = found[self._version]
        self._gateway_up_at = now
        self._healthy_at = now if counters.healthy else self._healthy_at
        if self._end_control is not None and not found[self._old].healthy:
            # Production's engine is gone: its clients go to the new version at once.
            self._end_control()
            self._end_control = None
        return counters

    def _interrupted(self, now: float, counters: BackendCounters | None) -> str:
        if self._lock.asked_to_give_way:
            return "a rollback was requested"
        if counters is not None and now - self._healthy_at > UNHEALTHY_SECONDS:
            return f"its engine has failed every health check for {UNHEALTHY_SECONDS:.0f} s"
        return ""

    def _without_evidence(self, observed: Observed) -> Decision | None:
        """A reason to stop at the longest usual time although the log shows nothing; None if there is none."""
        if self._rollout.when_errors_unsure == "go_on":
            return None
        problem = ""
        if self._stuck(observed.candidate, observed.seconds):
            problem = f"none of its {self._counts.begun(self._version)} requests has ended, by the access log"
        elif unlogged := self._unlogged(observed.candidate):
            problem = f"the access log has none of the {unlogged} requests that ended meanwhile"
        elif unmirrored := self._unmirrored():
            problem = f"none of production's {unmirrored} requests was mirrored; restart the gateway"
        held = self._rollout.max_hold_seconds
        return Decision("stop", f"not decided after {held:.0f} s: {problem}") if problem else None

    def _stuck(self, candidate: Sample, seconds: float) -> bool:
        """True if requests have begun and none has ended in the time of production's slowest."""
        slowest_ms = max(filter(None, (self.production.longest_ms, self._earlier.all.longest_ms)), default=None)
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

    def _end(self, seconds: float, decision: Decision) -> Decision:
        self.report = StepReport(
            weight=self._weight,
            mirror_per_cent=self._mirror_per_cent,
            seconds=seconds,
            requests=self._requests,
            errors=self._counts.errors(self._version),
            signals=self._decision.signals,
            ended=decision.why,
        )
        return decision


def next_weight(rollout: Rollout, weight: int) -> int:
    """Share of the requests that the new version gets after a step, in per cent; 100 after the last."""
    return next((step for step in rollout.steps if step > weight), 100)
