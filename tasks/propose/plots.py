"""The report's two plots, drawn without a display."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from tasks.evaluate.verdict.outcomes import OUTCOMES
from tasks.evaluate.verdict.verdict import SuiteVerdict
from tasks.fit.plot import FRAME_INCHES, ROW_INCHES, WIDTH_INCHES, label_rows, memory_figure
from tasks.propose.dossier import Answers, Dossier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def compared(dossier: Answers) -> list[SuiteVerdict]:
    """Suites that have an interval to draw."""
    return [suite for suite in dossier.verdict.suites if suite.low is not None and suite.high is not None]


def forest_plot(dossier: Answers) -> Figure | None:
    """Draw each suite's difference with its bounds against its margin; None where nothing was compared."""
    suites = compared(dossier)
    if not suites:
        return None
    figure, axes = _figure(len(suites))
    worse = OUTCOMES["regression"].plot_colour
    for row, suite in enumerate(suites):
        assert suite.low is not None and suite.high is not None and suite.estimate is not None
        low, high, at, margin = (100 * value for value in (suite.low, suite.high, suite.estimate, suite.margin))
        kind = OUTCOMES[suite.outcome]
        axes.plot([low, high], [row, row], color=kind.plot_colour, linewidth=2.4, solid_capstyle="butt", zorder=2)
        axes.plot([at], [row], kind.plot_marker, color=kind.plot_colour, markersize=8, zorder=3)
        axes.plot([-margin, -margin], [row - 0.38, row + 0.38], color="#222222", linewidth=2, zorder=3)
        axes.barh(row, -100 - -margin, left=-margin, height=0.76, color=worse, alpha=0.07, zorder=0)
    axes.axvline(0, color="#888888", linewidth=0.9, linestyle="--", zorder=1)
    ends = [100 * end for suite in suites for end in (suite.low or 0, suite.high or 0, -suite.margin, suite.margin)]
    padding = 0.08 * (max(ends) - min(ends))
    axes.set_xlim(min(ends) - padding, max(ends) + padding)
    label_rows(axes, [f"{suite.suite} ({suite.items})" for suite in suites])
    axes.set_xlabel("candidate minus production, percentage points (black bar: the margin; shaded: worse than it)")
    return figure


def memory_plot(dossier: Dossier) -> Figure | None:
    """Draw the candidate's memory on each GPU, stacked, against the GPU's capacity; None without a fit report."""
    rows = dossier.fit_rows
    if not rows:
        return None
    return memory_figure(rows)


def as_svg_uri(figure: Figure) -> str:
    """The figure as an SVG data URI; the same figure gives the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "weighbridge"}):
        return f"data:image/svg+xml;base64,{base64.b64encode(_drawn(figure, 'svg')).decode()}"


def as_png(figure: Figure) -> bytes:
    """The figure for MLflow's page of artifacts."""
    return _drawn(figure, "png")


def _drawn(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _figure(rows: int) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    # Without pyplot: no global list of figures, and safe in any thread.
    figure = Figure(figsize=(WIDTH_INCHES, FRAME_INCHES + ROW_INCHES * rows), layout="constrained")
    return figure, figure.subplots()
