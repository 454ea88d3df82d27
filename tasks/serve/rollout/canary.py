"""A canary rollout: mirrored requests first if the line asks for that, then weight by weight, or back again.

A step ends early when the new version is *shown* to be worse than production on the same traffic. It ends well after
`hold_seconds`, `min_requests` answers, and a decision on every signal that it waits for. At `max_hold_seconds` the
line's `when_…_unsure` decides about signals that only look worse. Quality is not judged here: a release's verdict did.
"""

from __future__ import annotations

from collections.abc import Callable

from tasks.serve.fleet.protocol import Report, RunningEngine, no_report
from tasks.serve.gateway import Backend, Gateway, Mirror, access_log
from tasks.serve.rollout.canary_step import CanaryStep, Earlier, StepReport
from tasks.serve.rollout.decision import Decision
from tasks.serve.rollout.disk_reserve import keep_reserve, with_reserve
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.traffic import mirror_requests, set_backends, set_weights
from tasks.serve.rollout.window import ALONE_SHARE, read_history
from weighbridge.errors import ApprovalRefused, AuditBroken, RolloutAborted, RolloutUndecided
from weighbridge.line import Line, ShadowStep

OnStep = Callable[[StepReport], None]


def _ignore_step(step: StepReport) -> None:
    """Ignore a step's report."""


def roll_out(
    line: Line,
    version: str,
    engine: RunningEngine,
    gateway: Gateway,
    lock: TrafficLock,
    report: Report = no_report,
    on_step: OnStep = _ignore_step,
    withdrawn: Callable[[], str] = str,
) -> list[StepReport]:
    """Shift a line's traffic to a version through the line's steps; continue where a killed rollout stopped.

    Args:
        line: whose traffic.
        version: name of the new version at the gateway.
        engine: the warm engine that serves it.
        lock: held by the caller; watched for a rollback that wants it.
        report: called with a sentence at each step.
        on_step: called with each step's report, also with that of the step that ends the rollout.
        withdrawn: called before each weight; returns why the version's approval does not hold any more, empty if it
            does.

    Raises:
        ApprovalRefused: the version may not get traffic; nothing was changed.
        RolloutAborted: a step was judged worse, the engine went down, or a rollback wants the line; traffic is back
            where it was and the new version drained.
        RolloutUndecided: a step looks worse without evidence, and the line asks a person; the weights stay as they are.
        GatewayFailed: Envoy stays away; the weights stay as they are until the next run.
        DiskFull: the next weight cannot be written; the same.
    """
    keep_reserve(gateway.settings)
    gateway.set_sticky(line.name, line.rollout.sticky_by)
    backends = {backend.version: backend for backend in gateway.routes().line(line.name).backends}
    others = [backend for backend in backends.values() if backend.version != version]
    old = max(others, key=lambda backend: backend.weight, default=None)
    # Also where it is there already: its engine may be another one now.
    backends[version] = backend_of(version, engine, backends[version].weight if version in backends else 0)
    if old is None or old.weight == 0:
        backends = {name: backend.model_copy(update={"weight": 0}) for name, backend in backends.items()}
        backends[version] = backends[version].model_copy(update={"weight": 100})
        set_backends(gateway, line.name, tuple(backends.values()))
        report(f"{line.name}: version {version} gets all traffic; nothing served before")
        step_report = StepReport(weight=100, seconds=0, requests=0, errors=0, ended="nothing served before")
        on_step(step_report)
        return [step_report]
    set_backends(gateway, line.name, tuple(backends.values()))
    run = RolloutRun(line, version, old.version, engine, tuple(backends), gateway, lock, report, on_step, withdrawn)
    if line.rollout.shadow is not None and backends[version].weight == 0:
        run.mirror(line.rollout.shadow)
    for weight in line.rollout.steps:
        if weight >= backends[version].weight:
            run.shift(weight)
    return run.reports


def switch(line_name: str, version: str, engine: RunningEngine, gateway: Gateway, *, returning: bool = False) -> None:
    """Give a version all of a line's new requests at once; the other versions finish the responses they began.

    Args:
        line_name: whose traffic.
        version: name of the version at the gateway.
        engine: the warm engine that serves it.
        gateway: before the engines.
        returning: whether it served until just now, and gets back what a failed swap took.

    Raises:
        ApprovalRefused, AuditBroken: it may not get traffic; nothing was changed.
    """
    backends = {
        backend.version: backend.model_copy(update={"weight": 0})
        for backend in gateway.routes().line(line_name).backends
    }
    backends[version] = backend_of(version, engine, 100)
    with_reserve(
        gateway.settings,
        lambda: set_backends(gateway, line_name, tuple(backends.values()), returning=version if returning else ""),
    )


def backend_of(version: str, engine: RunningEngine, weight: int) -> Backend:
    return Backend(
        version=version,
        digest=engine.artifact.digest,
        engine=engine.name,
        endpoints=engine.endpoints,
        weight=weight,
        health_path=engine.health_path,
    )


class RolloutRun:
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
        report: Report,
        on_step: OnStep,
        withdrawn: Callable[[], str],
    ) -> None:
        self._line, self._version, self._old, self._engine, self._versions = line, version, old, engine, versions
        self._gateway, self._lock, self._report, self._on_step = gateway, lock, report, on_step
        self._withdrawn = withdrawn
        self._earlier = Earlier(*read_history(access_log(gateway.settings), line.name, old))
        self.reports: list[StepReport] = []

    def mirror(self, mirror: ShadowStep) -> None:
        """Mirror requests to the new version; its responses are discarded."""
        step = self._step(0, mirror)
        mirror_requests(self._gateway, self._line.name, Mirror(version=self._version, per_cent=mirror.per_cent))
        self._report(
            f"{self._line.name}: {mirror.per_cent} % of the requests are mirrored to version {self._version}; "
            "responses discarded"
        )
        try:
            decision = step.wait()
        finally:
            with_reserve(self._gateway.settings, lambda: mirror_requests(self._gateway, self._line.name, None))
        self._end(step, decision)

    def shift(self, weight: int) -> None:
        """Give the new version a share of the requests, in per cent."""
        # Production keeps a little at the last step: what was measured before is of another hour, and another load.
        control = self._line.rollout.control_per_cent if weight == 100 else 0
        step = self._step(weight, end_control=(lambda: self._give(100)) if control else None)
        self._give(weight - control)
        self._report(f"{self._line.name}: canary step: version {self._version} gets {weight} % of the requests")
        decision = step.wait()
        if decision.verb == "stop":
            self._take_back()
        elif control and decision.verb == "go_on":
            self._give(100)
        self._end(step, decision)

    def _give(self, weight: int) -> None:
        """Give the new version a weight, unless its approval was withdrawn since the step before."""
        try:
            problem = self._withdrawn()
            if not problem:
                set_weights(self._gateway, self._line.name, self._weights(weight))
                return
        except (ApprovalRefused, AuditBroken) as refused:
            problem = refused.what
        self._take_back()
        raise self._aborted(f"{weight} %", problem.rstrip("."), "again")

    def _take_back(self) -> None:
        old_alone = self._weights(0)
        with_reserve(
            self._gateway.settings, lambda: set_weights(self._gateway, self._line.name, old_alone, returning=self._old)
        )

    def _step(
        self, weight: int, mirror: ShadowStep | None = None, end_control: Callable[[], None] | None = None
    ) -> CanaryStep:
        versions = self._version, self._old
        return CanaryStep(self._line, *versions, weight, self._gateway, self._lock, self._earlier, mirror, end_control)

    def _weights(self, weight: int) -> dict[str, int]:
        return {
            name: weight if name == self._version else 100 - weight if name == self._old else 0
            for name in self._versions
        }

    def _end(self, step: CanaryStep, decision: Decision) -> None:
        report, line = step.report, self._line
        self.reports.append(report)
        self._on_step(report)
        self._report(f"{line.name}: version {self._version} at {report.name}: {report.ended}")
        self._earlier.all.extend(step.production)
        if report.weight <= 100 * (1 - ALONE_SHARE):
            self._earlier.full_load.extend(step.production)
        if decision.verb == "go_on":
            return
        if decision.verb == "ask":
            raise RolloutUndecided(
                f"Version {self._version} of {line.name} at {report.name}: {decision.why}.",
                f"It keeps this share. `weighbridge rollback {line.name}` takes it back; `weighbridge promote "
                f"{line.name}` holds the step again. The line's `when_errors_unsure` may decide instead.",
            )
        if not self._lock.asked_to_give_way:
            # A rollback that waits for the lock wants the traffic now; `retire` drains later.
            self._gateway.wait_drained(line.name, self._version, line.rollout.drain_seconds)
        raise self._aborted(report.name, decision.why, "as before" if report.mirror_per_cent else "again")

    def _aborted(self, step_name: str, problem: str, since: str) -> RolloutAborted:
        return RolloutAborted(
            f"Version {self._version} of {self._line.name} was stopped at {step_name}: {problem}.",
            f"Version {self._old} has all traffic {since}; read the engine's log ({self._engine.name}) for the cause.",
        )
