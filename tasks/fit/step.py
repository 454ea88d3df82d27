"""The fit room's step."""

from __future__ import annotations

from tasks.fit.report import fit as plan_fit
from tasks.fit.rows import FitReport
from tasks.source.hub import Source
from tasks.steps import run_logger, step
from weighbridge.line import Line


@step("fit", key=lambda source, plan: [source.repo, source.commit, plan.target, plan.schemes, plan.engine])
def fit(source: Source, plan: Line) -> FitReport:
    """Say what fits where, before a byte of weights is downloaded."""
    report = plan_fit(source, plan)
    for row in report.rows:
        run_logger().info(
            "%s on %s: %s, %.2f of %.2f GiB, %s requests at once",
            row.scheme,
            row.gpu,
            row.verdict,
            row.total_gib,
            row.capacity_gib,
            row.max_concurrency,
        )
    return report
