"""The fit room's step."""

from __future__ import annotations

from registry.installation import Installation
from registry.store import Artifact
from tasks.fit import report as reports
from tasks.fit.rows import FitReport
from tasks.source.pinned import Source
from tasks.steps import run_logger, step
from weighbridge.line import Line


@step("fit", key=lambda source, line: [source.repo, source.commit, line.target, line.schemes, line.engine])
def fit(installation: Installation, source: Source, line: Line) -> FitReport:
    """Decide which of the line's schemes fit which of its GPUs, before any weights are downloaded."""
    report = reports.fit_release(installation, source, line)
    for row in report.rows:
        run_logger().info(
            "%s on %s: %s, %.2f of %.2f GiB, %d requests at once",
            row.scheme,
            row.gpu,
            row.verdict,
            row.total_gib,
            row.capacity_gib,
            row.max_concurrency,
        )
    return report


@step(
    "refit",
    key=lambda report, artifacts, line: [report, [artifact.digest for artifact in artifacts], line.target, line.engine],
)
def refit(installation: Installation, report: FitReport, artifacts: list[Artifact], line: Line) -> FitReport:
    """Repeat the fit with the real sizes of the artifacts."""
    refitted = reports.refit(
        report, line, {artifact.scheme: installation.store.path(artifact) for artifact in artifacts}
    )
    for row in refitted.rows:
        planned = next(planned for planned in report.rows if (planned.gpu, planned.scheme) == (row.gpu, row.scheme))
        run_logger().info(
            "%s on %s: %s, weights %.3f GiB of %.3f planned",
            row.scheme,
            row.gpu,
            row.verdict,
            row.weights_gib,
            planned.weights_gib,
        )
    return refitted
