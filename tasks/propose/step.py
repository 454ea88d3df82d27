"""The propose room's step."""

from __future__ import annotations

from uuid import uuid4

from registry.installation import Installation
from tasks.evaluate.weigh import Weighed
from tasks.fit.rows import FitReport
from tasks.propose.propose import propose as propose_candidates
from tasks.propose.propose import unrecorded
from tasks.propose.release import Release
from tasks.source.changes import ChangeReport
from tasks.source.pinned import Source
from tasks.steps import run_logger, step
from weighbridge.errors import StackDown
from weighbridge.line import Line
from weighbridge.retired import refuse_retired


def propose(
    installation: Installation,
    line: Line,
    source: Source,
    report: FitReport,
    weighed: list[Weighed],
    changed: ChangeReport | None,
) -> Release:
    """Record every candidate in MLflow, now or once it answers; a candidate that passes awaits a person's approval."""
    refuse_retired(installation.settings, line.name)
    identity = _registry_identity(installation, line, weighed)
    try:
        release = record_candidates(installation, identity, line, source, report, weighed, changed)
    except StackDown as error:
        # Not the step's result: a later run must ask MLflow again.
        run_logger().warning("It waits in the outbox for the line's next promote, which records it: %s", error.what)
        release = unrecorded(installation, line, source, weighed)
    for candidate in release.candidates:
        state = f"candidate {candidate.version} awaits approval" if candidate.version is not None else "not registered"
        run_logger().info("%s %s: %s; %s", candidate.scheme, candidate.digest[:12], candidate.outcome, state)
    return release


@step(
    "propose",
    key=lambda registry_identity, line, source, weighed: [
        registry_identity,
        source.commit,
        line.model_dump(),
        [candidate.verdict.model_dump() for candidate in weighed],
    ],
    version=3,
)
def record_candidates(
    installation: Installation,
    registry_identity: str,
    line: Line,
    source: Source,
    report: FitReport,
    weighed: list[Weighed],
    changed: ChangeReport | None,
) -> Release:
    """Record every candidate in MLflow.

    Args:
        installation: has the registry and the outbox.
        registry_identity: an emptied registry has another, so that it gets the same release again.
        line: the line.
        source: the release.
        report: what fits on which GPU.
        weighed: the candidates.
        changed: changes against production beside the weights.

    Raises:
        StackDown: MLflow does not answer, and the release waits in the outbox.
    """
    return propose_candidates(installation, line, source, report, weighed, changed)


def _registry_identity(installation: Installation, line: Line, weighed: list[Weighed]) -> str:
    registry = installation.registry
    try:
        if registry.is_intact(line.name, {candidate.artifact.digest for candidate in weighed}):
            return registry.identity(line.name)
        run_logger().warning("MLflow's record of these candidates is not what was signed: it is written again")
    except StackDown:
        pass
    # This run must neither take a result from the cache nor leave one there.
    return uuid4().hex
