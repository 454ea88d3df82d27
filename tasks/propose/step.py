"""The propose room's step."""

from __future__ import annotations

from registry.models import Registry
from tasks.fit.rows import FitReport
from tasks.propose.propose import Release, Weighed
from tasks.propose.propose import propose as propose_candidates
from tasks.source.changes import ChangeReport
from tasks.source.hub import Source
from tasks.steps import run_logger, step
from weighbridge.line import Line


@step(
    "propose",
    # An emptied registry is another one: what was recorded in the old is recorded again.
    key=lambda plan, source, report, weighed, changed: [
        Registry().identity(plan.name),
        source.commit,
        plan.model_dump(),
        [one.verdict.model_dump() for one in weighed],
    ],
)
def propose(
    plan: Line, source: Source, report: FitReport, weighed: list[Weighed], changed: ChangeReport | None
) -> Release:
    """Record every candidate in MLflow; those that pass await a person's approval."""
    release = propose_candidates(plan, source, report, weighed, changed)
    for candidate in release.candidates:
        waits = f"version {candidate.version} awaits approval" if candidate.version is not None else "not registered"
        if candidate.passes and not release.recorded:
            waits = "MLflow does not answer: it waits in the journal for the line's next promote"
        run_logger().info("%s %s: %s; %s", candidate.scheme, candidate.digest[:12], candidate.outcome, waits)
    return release
