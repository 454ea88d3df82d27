"""The propose room's step."""

from __future__ import annotations

from registry.models.registry import Registry
from tasks.fit.rows import FitReport
from tasks.propose.propose import Release, Weighed, unrecorded
from tasks.propose.propose import propose as propose_candidates
from tasks.source.changes import ChangeReport
from tasks.source.hub import Source
from tasks.steps import run_logger, step
from weighbridge.errors import StackDown
from weighbridge.line import Line


def propose(
    line: Line, source: Source, report: FitReport, weighed: list[Weighed], changed: ChangeReport | None
) -> Release:
    """Record every candidate in MLflow, now or once it answers; those that pass await a person's approval."""
    try:
        release = record_candidates(line, source, report, weighed, changed)
    except StackDown as error:
        # Not a step's result: a later run is to ask MLflow again.
        run_logger().warning("It waits in the journal for the line's next promote, which records it: %s", error.what)
        release = unrecorded(line, source, weighed)
    for candidate in release.candidates:
        waits = f"version {candidate.version} awaits approval" if candidate.version is not None else "not registered"
        run_logger().info("%s %s: %s; %s", candidate.scheme, candidate.digest[:12], candidate.outcome, waits)
    return release


@step(
    "propose",
    # An emptied registry is another one: what was recorded in the old is recorded again.
    key=lambda line, source, report, weighed, changed: [
        Registry().identity(line.name),
        source.commit,
        line.model_dump(),
        [one.verdict.model_dump() for one in weighed],
    ],
)
def record_candidates(
    line: Line, source: Source, report: FitReport, weighed: list[Weighed], changed: ChangeReport | None
) -> Release:
    """Record every candidate in MLflow.

    Raises:
        StackDown: and the release waits in the journal.
    """
    return propose_candidates(line, source, report, weighed, changed)
