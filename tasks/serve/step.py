"""The serve room's steps. They are never taken from the cache, because they change what serves."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

from pydantic import BaseModel, ConfigDict

from registry.models.records import Version
from registry.store import Artifact
from tasks.engines import engine as engine_kind
from tasks.engines import serves
from tasks.evaluate.scoring.serving_scorer import ServingScorer
from tasks.serve.approval import require_unbarred, verify_approval, verify_return
from tasks.serve.fleet.protocol import Report, RunningEngine, plan_engine
from tasks.serve.installation import ServingInstallation
from tasks.serve.parity.reference import probes_digest, reference_for
from tasks.serve.rollback_choices import nothing_to_roll_back
from tasks.serve.rollout import rollback
from tasks.serve.rollout.canary import roll_out, switch
from tasks.serve.rollout.canary_step import StepReport
from tasks.serve.rollout.lock import TrafficLock, require_held
from tasks.serve.rollout.report_table import step_rows
from tasks.serve.rollout.swap import ensure_or_swap
from tasks.serve.serving_record import note_served, record_serving, retire_engines, withdrawal
from tasks.steps import flow_run_id, run_logger, show_table, step
from weighbridge.errors import (
    RolloutAborted,
    WeighbridgeError,
)
from weighbridge.line import Line


class Serving(BaseModel):
    """What serves a line when a flow has ended."""

    model_config = ConfigDict(frozen=True)

    line: str
    version: int | None
    digest: str = ""
    scheme: str = ""
    changed: bool = False
    steps: tuple[StepReport, ...] = ()

    @property
    def announcement(self) -> str:
        """What people are notified of; empty where nothing changed."""
        if not self.changed:
            return ""
        return f"{self.line}: version {self.version} ({self.scheme}, {self.digest[:12]}) serves now."


def serving_scorer(installation: ServingInstallation, line: Line) -> ServingScorer:
    """Describe the line's engine as a scorer; scores record it by version and a digest of its flags."""
    plan, kind = plan_engine(line), engine_kind(line.engine.name)
    return ServingScorer(
        engine=f"{plan.engine_version} {plan.digest[:12]}",
        prompt_log_probabilities=kind.prompt_log_probabilities,
        can_serve=lambda artifact: serves(kind, installation.store.path(artifact)),
        start_engine=partial(_start_trial, installation),
        store=installation.store,
    )


def _start_trial(
    installation: ServingInstallation, line: Line, artifact: Artifact, report: Report
) -> AbstractContextManager[RunningEngine]:
    # The fleet is made where this runs: a step may run in another process, and its connections cannot be sent there.
    return installation.fleet.trial(line, artifact, report)


def traffic_lock(
    installation: ServingInstallation, line_name: str, wait_seconds: float, urgent: bool = False
) -> TrafficLock:
    """Take the right to move a line's traffic, also from a process that is frozen.

    Raises:
        RolloutBusy: another process keeps it for longer than `wait_seconds`.
    """
    lock = TrafficLock(installation.settings, line_name)
    return lock.acquire(wait_seconds, urgent, flow_run_id(), run_logger().warning)


@step("record-waiting-releases")
def record_waiting_releases(installation: ServingInstallation, line: Line) -> None:
    """Record in MLflow the releases that were weighed while it did not answer; a failure keeps nothing from serving."""
    try:
        installation.outbox.deliver(installation.registry, line.name, run_logger().info)
    except WeighbridgeError as error:
        run_logger().warning("A weighed release waits to be recorded: %s", error)


@step(
    "keep-reference-{artifact.scheme}-{artifact.short}",
    key=lambda line, artifact: [artifact.digest, line.target.context, probes_digest(line.target.context)],
)
def keep_reference(installation: ServingInstallation, line: Line, artifact: Artifact) -> int:
    """Compute a candidate's parity reference now, so that no promotion waits for it.

    Returns:
        Number of its prompts.

    Raises:
        ScoringFailed: transformers does not load the artifact.
    """
    reference = reference_for(installation.settings, artifact, line.target.context, run_logger().info)
    return len(reference.probes)


@step("check-approval-{target.version}")
def check_approval(installation: ServingInstallation, line: Line, target: Version) -> Artifact:
    """Compare what was approved with what was weighed; a mismatch is tagged, commented on, and gets no traffic.

    Raises:
        ApprovalRefused, ArtifactMissing, ArtifactDamaged, ArtifactUnsigned: and the version carries the reason.
    """
    return verify_approval(installation, line, target)


@step("start-engine-{artifact.scheme}-{artifact.short}")
def start_engine(installation: ServingInstallation, line: Line, target: Version, artifact: Artifact) -> RunningEngine:
    """Start a warm engine for an artifact, proven by real requests: beside what serves, or in its place.

    Raises:
        RolloutAborted: it failed in the old engine's place, which serves again; the version carries the reason.
        EngineFailed, NoRoomBeside: what serves is untouched.
    """
    try:
        return _ensure_engine(installation, line, target, artifact)
    except RolloutAborted as error:
        installation.registry.set_state(line.name, target.version, "failed", str(error))
        raise


def _ensure_engine(installation: ServingInstallation, line: Line, target: Version, artifact: Artifact) -> RunningEngine:
    gateway, fleet = installation.gateway, installation.fleet
    return ensure_or_swap(line, str(target.version), artifact, gateway, fleet, run_logger().info)


@step("shift-traffic-to-{target.version}")
def shift_traffic(
    installation: ServingInstallation, line: Line, target: Version, engine: RunningEngine, lock: TrafficLock
) -> list[StepReport]:
    """Move traffic to a version through the line's canary steps.

    Raises:
        RolloutAborted: and traffic is back where it was; the version carries the reason.
        TrafficTakenOver: another process moves the line's traffic by now.
    """
    require_held(installation.settings, line.name)
    registry = installation.registry
    if target.state is None:
        registry.set_state(line.name, target.version, "rolling")
    reports: list[StepReport] = []
    gateway, log = installation.gateway, run_logger().info
    withdrawn = partial(withdrawal, installation, target)
    try:
        return roll_out(line, str(target.version), engine, gateway, lock, log, reports.append, withdrawn)
    except RolloutAborted as error:
        registry.set_state(line.name, target.version, "failed", str(error))
        raise
    finally:
        if reports:
            title = f"Version {target.version} of {line.name} against production, canary step by step"
            show_table(f"rollout-{line.name}-{target.version}", step_rows(reports), title)


@step("finish-rollout-of-{target.version}")
def finish_rollout(installation: ServingInstallation, line: Line, target: Version) -> None:
    """Record what serves in the registry, then drain and stop what is no longer kept."""
    record_serving(installation, line, target)
    retire_engines(installation, line)


def rollback_target(installation: ServingInstallation, line: Line, number: int | None) -> Version:
    """The version that a rollback goes back to: the one named; production during a rollout; else `previous`.

    Raises:
        NothingToRollBack: there is no earlier version.
        VersionUnknown: there is no version of that number.
        ApprovalRefused: it was refused or failed.
    """
    target = _rollback_target(installation, line, number)
    require_unbarred(installation, target)
    return target


def _rollback_target(installation: ServingInstallation, line: Line, number: int | None) -> Version:
    registry = installation.registry
    pending = rollback.pending(installation.settings, line.name)
    if number is None and pending is not None:
        number = pending.to
    if number is not None:
        return registry.version(line.name, number)
    production, previous = registry.production(line.name), registry.previous(line.name)
    before = rollback.version_before(
        installation.gateway.routes().line(line.name),
        production.version if production else None,
        previous.version if previous else None,
    )
    target = next((version for version in (production, previous) if version and version.version == before), None)
    if target is None:
        raise nothing_to_roll_back(installation, line, production)
    return target


def unfinished_rollback(installation: ServingInstallation, line: Line) -> tuple[Version, str] | None:
    """The version and the reason of a rollback that was begun and that the registry does not have yet."""
    pending = rollback.pending(installation.settings, line.name)
    return (installation.registry.version(line.name, pending.to), pending.reason) if pending is not None else None


@step("prepare-rollback-to-{target.version}")
def prepare_rollback(installation: ServingInstallation, line: Line, target: Version, reason: str) -> RunningEngine:
    """Write a rollback down, and find its engine: the warm one at once, else one from the verified artifact.

    Raises:
        ApprovalRefused, ArtifactDamaged, EngineFailed, NoRoomBeside, RolloutAborted: and the rollback is forgotten;
            what served continues to serve.
        TrafficTakenOver: another process moves the line's traffic by now.
    """
    require_held(installation.settings, line.name)
    try:
        artifact = verify_return(installation, line, target)
        rollback.begin(installation.settings, line.name, target.version, reason)
        engine = installation.fleet.find(line, artifact)
        if engine is not None and installation.fleet.is_warm(engine):
            return engine
        return _ensure_engine(installation, line, target, artifact)
    except WeighbridgeError:
        rollback.end(installation.settings, line.name)
        raise


@step("roll-back-to-{target.version}")
def roll_back_traffic(
    installation: ServingInstallation, line: Line, target: Version, engine: RunningEngine, reason: str
) -> None:
    """Give an earlier version all new requests, then record it in the registry; the next run repairs a crash between.

    Args:
        target: the earlier version.
        engine: the warm engine that serves it.
        reason: kept with the versions that lose their traffic.

    Raises:
        TrafficTakenOver: another process moves the line's traffic by now.
    """
    registry = installation.registry
    switch(line.name, str(target.version), engine, installation.gateway)
    run_logger().info("%s: rollback: version %s has all new requests", line.name, target.version)
    for other in registry.versions(line.name):
        if other.version != target.version and other.state in ("serving", "rolling"):
            registry.set_state(line.name, other.version, "rolled_back", reason)
    registry.set_production(line.name, target.version)
    registry.set_state(line.name, target.version, "serving")
    previous = registry.previous(line.name)
    if previous is not None and previous.version == target.version:
        registry.set_previous(line.name, None)
    note_served(installation, line)
    rollback.end(installation.settings, line.name)
