"""Look at every line's source and do once what there is to be done about it."""

from __future__ import annotations

from prefect import flow

import weighbridge.errors
from tasks.fit.report import fit
from tasks.source.step import decide, remember, settle, show
from tasks.source.watch_rows import WatchReport
from weighbridge.errors import WeighbridgeError
from weighbridge.line import line_names


@flow(name="watch", flow_run_name="watch", persist_result=True, result_serializer="json")
def watch(lines: list[str] | None = None) -> WatchReport:
    """Look at every line's source and do once what there is to be done about it.

    Args:
        lines: files in `lines/`; all by default.

    Raises:
        WeighbridgeError: the first line's that could not be looked at or started, after all others were.
    """
    names, rows = lines or line_names(), []
    for line in names:
        decided = decide(line, fit)
        rows += settle(line, decided)
    remember(names)
    show(rows)
    return conclude(WatchReport(rows=tuple(rows)))


def conclude(report: WatchReport) -> WatchReport:
    """A watch ends well when every line was looked at and nothing that was to be started was left."""
    for failure in report.failures:
        kind: type[WeighbridgeError] = getattr(weighbridge.errors, failure.code)
        raise kind(failure.what, failure.next_step, failure.where)
    return report
