"""What a rollout saw, as a table for whoever is on call."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.serve.rollout.canary_step import StepReport
from tasks.serve.rollout.judge import Signal


def step_rows(reports: Sequence[StepReport]) -> list[dict[str, str]]:
    """A row for each step, and below it one for each signal that was looked at."""
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
        rows += [_signal_row(report.name, one) for one in report.signals]
    return rows


def _signal_row(step: str, signal: Signal) -> dict[str, str]:
    return {
        "step": step,
        "signal": signal.name,
        "outcome": signal.outcome,
        "new": signal.shown(signal.candidate),
        "production": signal.shown(signal.production),
        "interval": signal.interval,
        "allowed": f"{signal.allowed:g}",
    }
