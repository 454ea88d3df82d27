"""Check every line's source for new commits and successors, and start the releases that the lines' policies allow."""

from __future__ import annotations

from prefect import flow

import weighbridge.errors
from registry.installation import Installation
from tasks.engines import known_architectures
from tasks.fit.report import fit_release
from tasks.source.step import publish_table, record_decisions, start_releases, triage_line
from tasks.source.watch_rows import WatchReport
from tasks.steps import named_failures
from weighbridge.errors import WeighbridgeError
from weighbridge.line import line_names


@flow(name="watch", flow_run_name="watch", persist_result=True, result_serializer="json")
@named_failures
def watch(lines: list[str] | None = None) -> WatchReport:
    """Check every line's source, decide about each new commit, and start each release once.

    Args:
        lines: files in `lines/`; all by default.

    Raises:
        WeighbridgeError: of the first line that failed, after all other lines were processed.
    """
    installation = Installation.load()
    names, rows = lines or line_names(), []
    for line in names:
        triaged = triage_line(installation, line, fit_release, known_architectures)
        rows += start_releases(installation, line, triaged)
    record_decisions(installation, names)
    publish_table(rows)
    return conclude(WatchReport(rows=tuple(rows)))


def conclude(report: WatchReport) -> WatchReport:
    """Return the report, or raise the first failure in it.

    Raises:
        WeighbridgeError: a line could not be read, or a release not started.
    """
    for failure in report.failures:
        kind: type[WeighbridgeError] = getattr(weighbridge.errors, failure.code)
        raise kind(failure.what, failure.next_step, failure.where)
    return report
