"""Retire a line: its traffic ends, its engines stop, its deployments go, `store gc` may free its artifacts.

Records stay: runs and versions in MLflow, the audit log, flow runs, and the line's file, as a copy in the home. The
retirement is written down first (`<home>/retired/NAME.json`), and each step may be done twice. So after a kill the same
command goes on where it was.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.audit import this_user
from stack.deploy import ReportService
from stack.known_lines import make_lines_known
from stack.stopping import cancel_runs, runs_under_way
from tasks.serve.installation import ServingInstallation
from tasks.serve.orphans import line_or_orphan
from tasks.serve.rollout import rollback
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.rollout.traffic import take_all_weight
from weighbridge.errors import LineInvalid, LineUnknown
from weighbridge.files import write_whole
from weighbridge.line import Rollout, line_names
from weighbridge.line_flows import LINE_FLOWS
from weighbridge.retired import Retirement, read_retirement, write_retirement
from weighbridge.settings import Settings
from weighbridge.suggestions import did_you_mean

LOCK_SECONDS = 300.0
"""A rollout gives way within seconds; a flow that is starting an engine only when that has started."""
LIVE = (None, "rolling", "serving", "previous")
"""States of versions that might get traffic."""


class RetirePlan(BaseModel):
    """What there is of a line, and so what its retirement ends."""

    model_config = ConfigDict(frozen=True)

    line: str
    file: bool
    """Whether its file is in `lines/`."""
    weights: dict[str, int]
    """Per cent of the requests, by version."""
    engines: tuple[str, ...]
    deployments: tuple[str, ...]
    artifacts: int
    """That the store has of the line."""
    runs: tuple[str, ...]
    """Of its flows, that are under way."""
    begun: bool
    """Whether an earlier retirement was cut off."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What will be done, a sentence each."""
        serving = ", ".join(f"version {version} ({weight} %)" for version, weight in self.weights.items() if weight)
        parts = (
            f"lines/{self.line}.yaml moves to the home's folder retired/." if self.file else "",
            f"Prefect loses {', '.join(self.deployments)}; their runs stay." if self.deployments else "",
            f"Requests for {self.line} are refused from then on; now {serving} serves." if serving else "",
            "Requests under way may end, within the line's drain_seconds." if serving else "",
            f"These engines stop: {', '.join(self.engines)}." if self.engines else "",
            f"Prefect cancels {', '.join(self.runs)}: under way now." if self.runs else "",
            f"`weighbridge store gc` may free {self.artifacts} artifact{'s' if self.artifacts > 1 else ''}."
            if self.artifacts
            else "",
            "Records stay: MLflow's runs and versions, the audit log, the suite.",
        )
        return tuple(part for part in parts if part)


def plan_retirement(installation: ServingInstallation, name: str) -> RetirePlan:
    """Find out what there is of a line; changes nothing, and needs no server.

    Raises:
        LineUnknown: There is nothing of it.
        GatewayFailed, EngineFailed: The routes, or the record of an engine, cannot be read.
    """
    settings = installation.settings
    known = line_names(settings.root / "lines")
    route = installation.gateway.routes().line(name)
    engines = tuple(engine.name for engine in installation.fleet.engines(name))
    earlier = read_retirement(settings, name)
    begun = earlier is not None and not earlier.done and name not in known
    if name not in known and not route.backends and not engines and not begun:
        retired = f" It was retired on {earlier.at[:10]}." if earlier else ""
        raise LineUnknown(
            f"There is no line called {name!r}, and nothing of one serves{did_you_mean(name, known) or '.'}{retired}",
            "`weighbridge lines` lists the lines, and those that still serve without a file.",
        )
    return RetirePlan(
        line=name,
        file=name in known,
        weights={backend.version: backend.weight for backend in route.backends},
        engines=engines,
        deployments=tuple(f"{flow.name}/{name}" for flow in LINE_FLOWS) if name in known or begun else (),
        artifacts=len(installation.store.listed(name, local_only=True)),
        runs=tuple(runs_under_way(settings, name)),
        begun=begun,
    )


def retire_line(installation: ServingInstallation, name: str, reason: str, report: ReportService) -> None:
    """Retire a line, or go on with a retirement that was cut off.

    Args:
        installation: whose line. Its stack is up.
        name: the line's.
        reason: kept in the audit log and with the versions.
        report: called with the line's name and each thing that was done.

    Raises:
        RolloutBusy: Another process keeps the line's traffic.
        WeighbridgeError: A step failed; the same command goes on.
    """
    settings = installation.settings
    plan = plan_retirement(installation, name)
    drain_seconds = _drain_seconds(settings, name)
    if not plan.begun:
        versions = ", ".join(f"{version} at {weight} %" for version, weight in plan.weights.items())
        installation.audit_log.append("line retired", name, None, what=f"versions: {versions or 'none'}", reason=reason)
        write_retirement(settings, Retirement(line=name, at=_now(), who=this_user(), reason=reason))
    if plan.file:
        report(name, f"its file is in {_put_aside(settings, name)}")
    if plan.runs:
        report(name, f"{', '.join(plan.runs)}: cancelled")
        for run in cancel_runs(settings, name):
            report(name, f"{run} has not ended; it will propose nothing")
    make_lines_known(settings, report)
    # A rollout that is under way gives way.
    with TrafficLock(settings, name).acquire(LOCK_SECONDS, urgent=True, report=partial(report, name)):
        _end_traffic(installation, name, drain_seconds, report)
        for engine in installation.fleet.engines(name):
            installation.fleet.stop(engine)
            report(name, f"{engine.name} is stopped")
        rollback.forget(settings, name)
    _close_versions(installation, name, reason)
    earlier = read_retirement(settings, name)
    if earlier is not None:
        write_retirement(settings, earlier.model_copy(update={"done": True}))
    report(name, "is retired")


def _end_traffic(installation: ServingInstallation, name: str, drain_seconds: float, report: ReportService) -> None:
    gateway = installation.gateway
    if name not in [route.line for route in gateway.routes().lines]:
        return
    take_all_weight(gateway, name)
    for backend in gateway.routes().line(name).backends:
        if not gateway.wait_drained(name, backend.version, drain_seconds):
            report(name, f"requests of version {backend.version} did not end within {drain_seconds:.0f} s and are cut")
    gateway.remove_line(name)
    report(name, "has no route any more")


def _close_versions(installation: ServingInstallation, name: str, reason: str) -> None:
    """Take production and previous, and every version that might still serve, out of the registry's plans."""
    registry = installation.registry
    for version in registry.versions(name):
        if version.state in LIVE:
            registry.set_state(name, version.version, "retired", f"the line was retired: {reason}")
    if registry.previous(name) is not None:
        registry.set_previous(name, None)
    if registry.production(name) is not None:
        registry.set_production(name, None)


def _put_aside(settings: Settings, name: str) -> Path:
    """Copy the line's file into the home, then remove it; that ends the line for flows, schedules and clicks."""
    file = settings.root / "lines" / f"{name}.yaml"
    kept = settings.home / "retired" / f"{name}.yaml"
    write_whole(kept, file.read_bytes())
    file.unlink()
    return kept


def _drain_seconds(settings: Settings, name: str) -> float:
    try:
        return line_or_orphan(settings, name).rollout.drain_seconds
    except (LineUnknown, LineInvalid, ValidationError):
        return Rollout().drain_seconds


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
