"""The serve room's steps: done every time, for they change what serves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from pydantic import BaseModel, ConfigDict

from registry.models.outbox import Outbox
from registry.models.records import Version
from registry.models.registry import Registry
from registry.store import Artifact, Store
from tasks.engines import engine, serves
from tasks.evaluate.scoring.serving_scorer import ServingScorer
from tasks.serve.approval import hold
from tasks.serve.fleet.protocol import RunningEngine, fleet_of, plan_engine
from tasks.serve.gateway import Gateway
from tasks.serve.parity.reference import probes_digest, reference_for
from tasks.serve.rollout import rollback
from tasks.serve.rollout.canary import roll_out, switch
from tasks.serve.rollout.canary_step import StepReport
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.report_table import step_rows
from tasks.serve.rollout.retire import retire
from tasks.serve.rollout.swap import engine_with_room
from tasks.steps import run_logger, show_table, step
from weighbridge.errors import NothingToRollBack, RolloutAborted, WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import load_settings


class Serving(BaseModel):
    """What serves a line when a flow has ended."""

    model_config = ConfigDict(frozen=True)

    line: str
    version: int | None
    digest: str = ""
    scheme: str = ""
    changed: bool = False
    steps: tuple[StepReport, ...] = ()


def serving_scorer(line: Line) -> ServingScorer:
    """The line's engine, for weighing; scores record it by version and a digest of its flags."""
    planned = plan_engine(line)
    return ServingScorer(
        engine=f"{planned.engine_version} {planned.digest[:12]}",
        prompt_log_probabilities=engine(line.engine.name).prompt_log_probabilities,
        can_serve=lambda artifact: serves(engine(line.engine.name), Store().path(artifact)),
        start_engine=_start_engine,
        store=Store(),
    )


def _start_engine(line: Line, artifact: Artifact, tell: Callable[[str], None]) -> AbstractContextManager[RunningEngine]:
    return fleet_of(load_settings()).trial(line, artifact, tell)


def traffic_lock(line: str, wait_seconds: float, urgent: bool = False) -> TrafficLock:
    """The right to move a line's traffic.

    Raises:
        RolloutBusy: somebody else keeps it for longer than `wait_seconds`.
    """
    return TrafficLock(load_settings(), line).acquire(wait_seconds, urgent)


@step("record-waiting-releases")
def record_waiting(line: Line) -> None:
    """Give MLflow what was weighed while it did not answer; what it does not take keeps nothing from serving."""
    try:
        Outbox().deliver(Registry(), line.name, run_logger().info)
    except WeighbridgeError as error:
        run_logger().warning("A weighed release waits to be recorded: %s", error)


def wanted(line: Line, version: int | None) -> Version | None:
    """What the registry asks to serve: the version named, else the newest approval, else the alias `production`.

    Raises:
        VersionUnknown: there is no version of that number.
    """
    registry = Registry()
    if version is not None:
        return registry.version(line.name, version)
    waiting = registry.waiting(line.name)
    return max(waiting, key=lambda one: one.version) if waiting else registry.production(line.name)


@step(
    "keep-reference-{artifact.scheme}-{artifact.short}",
    key=lambda line, artifact: [artifact.digest, line.target.context, probes_digest(line.target.context)],
)
def keep_reference(line: Line, artifact: Artifact) -> int:
    """Have ready what an engine of a candidate is to say, so that no promotion waits for it; how many prompts that is.

    Raises:
        ScoringFailed: transformers does not load the artifact.
    """
    return len(reference_for(artifact, line.target.context, run_logger().info).probes)


@step("check-approval-{target.version}")
def check_approval(line: Line, target: Version) -> Artifact:
    """Hold what was approved against what was weighed; what fails is tagged, commented on, and serves nobody.

    Raises:
        ApprovalRefused, ArtifactMissing, ArtifactDamaged, ArtifactUnsigned: and the version carries the reason.
    """
    return hold(line, target, Registry(), Store(), load_settings())


@step("start-engine-{artifact.scheme}-{artifact.short}")
def start_engine(line: Line, target: Version, artifact: Artifact) -> RunningEngine:
    """A warm engine for an artifact, proven by real requests; beside what serves, or in its place.

    Raises:
        RolloutAborted: it failed in the old engine's place, which serves again; the version carries the reason.
        EngineFailed, NoRoomBeside: what serves is untouched.
    """
    settings = load_settings()
    try:
        return engine_with_room(
            line, str(target.version), artifact, Gateway(settings), fleet_of(settings), run_logger().info
        )
    except RolloutAborted as error:
        Registry().set_state(line.name, target.version, "failed", str(error))
        raise


@step("shift-traffic-to-{target.version}")
def shift_traffic(line: Line, target: Version, engine: RunningEngine, lock: TrafficLock) -> list[StepReport]:
    """Move traffic to a version through the line's steps.

    Raises:
        RolloutAborted: and traffic is back where it was; the version carries the reason.
    """
    registry = Registry()
    if target.state is None:
        registry.set_state(line.name, target.version, "rolling")
    reports: list[StepReport] = []
    try:
        return roll_out(
            line, str(target.version), engine, Gateway(load_settings()), lock, run_logger().info, reports.append
        )
    except RolloutAborted as error:
        registry.set_state(line.name, target.version, "failed", str(error))
        raise
    finally:
        if reports:
            title = f"Version {target.version} of {line.name} against what served, step by step"
            show_table(f"rollout-{line.name}-{target.version}", step_rows(reports), title)


@step("settle-{target.version}")
def settle(line: Line, target: Version) -> None:
    """Make the registry say what serves, then drain and stop what is no longer kept."""
    tell_registry(line, target)
    tidy(line)


def tidy(line: Line) -> None:
    """Note which engines serve, and drain and stop those that are out and no longer kept warm."""
    settings = load_settings()
    gateway, fleet = Gateway(settings), fleet_of(settings)
    serving = [backend for backend in gateway.routes().line(line.name).backends if backend.weight > 0]
    for running in fleet.engines(line.name):
        fleet.mark_rotation(running, any(backend.runs_on(running.name, running.endpoints) for backend in serving))
    _remember(line)
    Registry().reconcile(line.name)
    retire(line, gateway, fleet, run_logger().info)


def tell_registry(line: Line, target: Version) -> None:
    """Write down that a version serves, as far as that is not written down yet: a kill may have come between any two.

    Args:
        target: as it was read since this run has the line's lock.
    """
    registry, name = Registry(), line.name
    before = registry.production(name)
    if before is None or before.version != target.version:
        if before is not None:
            registry.set_previous(name, before.version)
            if before.state != "rolled_back":
                registry.set_state(name, before.version, "previous")
        registry.set_production(name, target.version)
    if target.state != "serving":
        registry.set_state(name, target.version, "serving")
    for older in registry.waiting(name):
        if older.version < target.version:
            registry.set_state(name, older.version, "retired", f"superseded by version {target.version}")


def _remember(line: Line) -> None:
    """Keep where a rollback finds it at once what the registry says of the line."""
    registry = Registry()
    production, previous = registry.production(line.name), registry.previous(line.name)
    if production is not None:
        kept = previous.version if previous is not None else None
        rollback.note_served(load_settings(), line.name, production.version, kept)


def serves_already(line: Line, target: Version) -> bool:
    """Whether gateway, registry and engine agree that this version has all traffic."""
    settings = load_settings()
    production = Registry().production(line.name)
    if production is None or production.version != target.version:
        return False
    serving = [one for one in Gateway(settings).routes().line(line.name).backends if one.weight > 0]
    if [backend.version for backend in serving] != [str(target.version)] or serving[0].digest != target.digest:
        return False
    fleet = fleet_of(settings)
    engines = [one for one in fleet.engines(line.name) if serving[0].runs_on(one.name, one.endpoints)]
    return any(fleet.is_warm(one) for one in engines)


def earlier(line: Line, version: int | None) -> Version:
    """What a rollback goes back to: the version named; production while a rollout runs; else `previous`.

    Raises:
        NothingToRollBack: there is no earlier version.
        VersionUnknown: there is no version of that number.
    """
    registry, settings = Registry(), load_settings()
    intent = rollback.pending(settings, line.name)
    if version is None and intent is not None:
        version = intent.to
    if version is not None:
        return registry.version(line.name, version)
    production, previous = registry.production(line.name), registry.previous(line.name)
    route = Gateway(settings).routes().line(line.name)
    number = rollback.before(route, production.version if production else None, previous.version if previous else None)
    found = next((one for one in (production, previous) if one is not None and one.version == number), None)
    if found is None:
        raise NothingToRollBack(
            f"{line.name} has no previous version.",
            f"Name one: `weighbridge rollback {line.name} --to VERSION`; `weighbridge status` lists them.",
        )
    return found


def unfinished(line: Line) -> tuple[Version, str] | None:
    """A rollback that was begun and that the registry does not have yet, with its reason."""
    intent = rollback.pending(load_settings(), line.name)
    return (Registry().version(line.name, intent.to), intent.reason) if intent is not None else None


@step("wake-engine-{target.version}")
def wake_engine(line: Line, target: Version, reason: str) -> RunningEngine:
    """Write the rollback down, and find its engine: the warm one at once, else one from the verified artifact.

    Raises:
        ArtifactDamaged, EngineFailed, NoRoomBeside, RolloutAborted: and the rollback is forgotten; what served
            serves on.
    """
    settings = load_settings()
    rollback.begin(settings, line.name, target.version, reason)
    try:
        fleet, artifact = fleet_of(settings), Store().get(line.name, target.digest)
        known = fleet.find(line, artifact)
        if known is not None and fleet.is_warm(known):
            return known
        return engine_with_room(line, str(target.version), artifact, Gateway(settings), fleet, run_logger().info)
    except WeighbridgeError:
        rollback.end(settings, line.name)
        raise


@step("switch-back-to-{target.version}")
def switch_back(line: Line, target: Version, engine: RunningEngine, reason: str) -> None:
    """Give an earlier version all new requests, then make the registry say so; a crash between the two ends there."""
    settings, registry = load_settings(), Registry()
    switch(line.name, str(target.version), engine, Gateway(settings))
    run_logger().info("%s: version %s has all new requests", line.name, target.version)
    for other in registry.versions(line.name):
        if other.version != target.version and other.state in ("serving", "rolling"):
            registry.set_state(line.name, other.version, "rolled_back", reason)
    registry.set_production(line.name, target.version)
    registry.set_state(line.name, target.version, "serving")
    previous = registry.previous(line.name)
    if previous is not None and previous.version == target.version:
        registry.set_previous(line.name, None)
    _remember(line)
    rollback.end(settings, line.name)
