"""When a canary step ends, and how: what its interim results, its time and the line's limits say together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tasks.serve.rollout.error_budget import FEWEST_REQUESTS, ErrorBudget, Moment
from tasks.serve.rollout.judge import judge
from tasks.serve.rollout.sample import Sample
from tasks.serve.rollout.signals import SHARES, CanarySignal
from weighbridge.line import Rollout

Verb = Literal["wait", "go_on", "stop", "ask"]


@dataclass(frozen=True)
class Decision:
    """What a step does now, and why."""

    verb: Verb
    why: str = ""


WAIT = Decision("wait")

SMALL_WEIGHT = 10
"""Per cent. A step before one of at most so much is not held on for long: little harm can come of it."""


@dataclass(frozen=True)
class Observed:
    """What is known of both versions at one moment."""

    seconds: float
    """Since the step began."""
    candidate: Sample
    production: Sample
    """At the last step, where production has hardly any requests: those while it had the line's load."""
    control: Sample = field(default_factory=Sample)
    """At the last step: production's few requests of the same time."""
    begun: int = 0
    """Requests to the new version whose response began, by the gateway's counters."""
    unanswered: int = 0
    """Of these, such as have been in progress for longer than production's slowest answer, beyond production's own."""
    quiet: bool = False
    """True if neither version got a request."""
    healthy: bool = True
    """False while the health of the new version's engine is unknown."""


class StepDecision:
    """Decide about one step, again and again.

    Args:
        rollout: the line's limits.
        hold_seconds: shortest time at this step.
        next_weight: per cent of the requests that the new version gets after it.
    """

    def __init__(self, rollout: Rollout, hold_seconds: float, next_weight: int) -> None:
        self._rollout, self._hold_seconds, self._next_weight = rollout, hold_seconds, next_weight
        self._budget = ErrorBudget(len(rollout.steps) + (rollout.shadow is not None))
        self.signals: tuple[CanarySignal, ...] = ()

    def next_requests(self, overdue: bool) -> int:
        """Requests of the new version at which the next interim result is due, whatever the time."""
        return self._budget.next_requests(overdue)

    def decide(self, observed: Observed) -> Decision:
        """Take an interim result if one is due, and say what follows."""
        rollout, seconds, requests = self._rollout, observed.seconds, observed.candidate.requests
        due = seconds >= self._hold_seconds and observed.begun >= rollout.min_requests
        overdue = seconds >= rollout.max_hold_seconds
        is_last = seconds >= rollout.max_hold_seconds * rollout.max_unsure_factor
        moment = self._budget.due(requests, due, overdue)
        if moment is None and overdue and is_last:
            moment = "late"
        if moment is not None:
            self.signals = self._interim_result(observed, moment, is_last)
        if worse := [signal.sentence for signal in self.signals if signal.outcome == "worse"]:
            return Decision("stop", "; ".join(worse))
        if not observed.healthy:
            # While its health is unknown, the step does not pass.
            return WAIT
        if due and observed.quiet:
            return Decision("go_on", "no requests came")
        is_decided = requests >= FEWEST_REQUESTS and not any(signal.waits for signal in self.signals)
        if due and is_decided and not self._many_unanswered(observed):
            return Decision("go_on", "no worse than production in every signal that a step waits for")
        return self._overdue(is_last) if overdue else WAIT

    @property
    def _is_small(self) -> bool:
        return self._next_weight <= SMALL_WEIGHT

    def _many_unanswered(self, observed: Observed) -> bool:
        """True if more requests are without an end than may fail: they may be slow, so nothing is decided before."""
        return observed.unanswered > self._rollout.max_error_share * (observed.candidate.requests + observed.unanswered)

    def _overdue(self, is_last: bool) -> Decision:
        """Nothing is shown, at the longest usual time: hold what looks worse, then do as the line has it."""
        when = {"errors": self._rollout.when_errors_unsure, "speed": self._rollout.when_speed_unsure}
        leaning = [
            signal
            for signal in self.signals
            if signal.leans_worse and when[signal.asks] != "go_on" and (signal.name in SHARES or not self._is_small)
        ]
        if not leaning:
            return Decision("go_on", "held as long as the line allows")
        if not is_last:
            return WAIT
        held = self._rollout.max_hold_seconds * self._rollout.max_unsure_factor
        why = f"not decided after {held:.0f} s: {'; '.join(signal.sentence for signal in leaning)}"
        return Decision("stop" if any(when[signal.asks] == "stop" for signal in leaning) else "ask", why)

    def _interim_result(self, observed: Observed, moment: Moment, is_last: bool) -> tuple[CanarySignal, ...]:
        error = self._budget.spend(moment, observed.candidate.requests)
        # A rise does harm by the share of the requests that gets it.
        is_overdue = observed.seconds >= self._rollout.max_hold_seconds
        is_scaled = is_last or (is_overdue and self._is_small)
        margin = self._rollout.max_error_rise * (100 / self._next_weight if is_scaled else 1)
        unanswered = observed.unanswered if is_overdue else 0
        new, old = observed.candidate, observed.production
        found = judge(new, old, self._rollout, error, unanswered=unanswered, margin=margin)
        if not observed.control.requests:
            return found
        # The load or the hour may have changed since production had the line's load: then both are slower now.
        beside = judge(observed.candidate, observed.control, self._rollout, error)
        return tuple(map(_unless_alike, found, beside))


def _unless_alike(signal: CanarySignal, beside: CanarySignal) -> CanarySignal:
    """A signal that is worse than production's earlier requests counts unless the present ones look alike."""
    if signal.outcome != "worse" or beside.candidate is None or beside.production is None:
        return signal
    alike = beside.outcome != "worse" and not beside.leans_worse
    return signal.model_copy(update={"outcome": "inconclusive"}) if alike else signal
