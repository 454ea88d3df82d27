"""The fit room's step."""

from __future__ import annotations

from registry.store import Artifact, Store
from tasks.fit.report import fit as plan_fit
from tasks.fit.report import refit as plan_again
from tasks.fit.rows import FitReport
from tasks.source.hub import Source
from tasks.steps import run_logger, step
from weighbridge.line import Line


@step("fit", key=lambda source, line: [source.repo, source.commit, line.target, line.schemes, line.engine])
def fit(source: Source, line: Line) -> FitReport:
    """Say what fits where, before a byte of weights is downloaded."""
    report = plan_fit(source, line)
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


@step(
    "refit", key=lambda report, artifacts, line: [report, [one.digest for one in artifacts], line.target, line.engine]
)
def refit(report: FitReport, artifacts: list[Artifact], line: Line) -> FitReport:
    """Check the fit again with the real bytes of what was quantized."""
    store = Store()
    again = plan_again(report, line, {one.scheme: store.path(one) for one in artifacts})
    for row in again.rows:
        before = next(one for one in report.rows if (one.gpu, one.scheme) == (row.gpu, row.scheme))
        run_logger().info(
            "%s on %s: %s, weights %.3f GiB of %.3f planned",
            row.scheme,
            row.gpu,
            row.verdict,
            row.weights_gib,
            before.weights_gib,
        )
    return again
