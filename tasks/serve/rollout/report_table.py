"""A rollout's steps and signals as a table, for the person on call."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.serve.rollout.canary_step import StepReport
from tasks.serve.rollout.signals import CanarySignal


def step_rows(reports: Sequence[StepReport]) -> list[dict[str, str]]:
    """Make a row for each step, and below it one for each of its signals."""
    rows = []
    for report in reports:
        rows.append(
            {
                "step": report.name,
                "signal": f"{report.requests} requests, {report.errors} failed, {report.seconds:.0f} s",
                "outcome": report.ended,
                "new": "",
                "production": "",
                "interval": "",
                "allowed": "",
            }
        )
        rows += [_signal_row(report.name, signal) for signal in report.signals]
    return rows


def _signal_row(step: str, signal: CanarySignal) -> dict[str, str]:
    return {
        "step": step,
        "signal": signal.name,
        "outcome": signal.outcome,
        "new": signal.shown(signal.candidate),
        "production": signal.shown(signal.production),
        "interval": signal.interval,
        "allowed": signal.limits,
    }
