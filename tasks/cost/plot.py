"""Plot of the break-even: the API's straight line against the staircases of your own servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.cost.report import DAYS_PER_MONTH, CostOption, CostReport
from tasks.fit.plot import literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 3
HA_FACTOR = 2
POINTS = 600
# Okabe and Ito's colours: told apart with any colour vision.
COLOURS = ("#0072B2", "#009E73", "#E69F00")
MARK = "#D55E00"


def shown_options(report: CostReport) -> tuple[CostOption, ...]:
    """Select the options that break even first, one for each GPU and provider; the cheapest if none does."""
    by_break_even = sorted(
        report.options, key=lambda option: (option.break_even_tokens_per_day or float("inf"), option.monthly_eur)
    )
    chosen: dict[tuple[str, str], CostOption] = {}
    for option in by_break_even:
        chosen.setdefault((option.provider, option.gpu), option)
    return tuple(chosen.values())[:SHOWN]


def stairs_eur(option: CostOption, tokens_per_day: float) -> float:
    """Monthly cost of an option at another volume, every server twice."""
    # -(-a // b) rounds up.
    servers = max(1, -(-tokens_per_day // option.server_tokens_per_day))
    return HA_FACTOR * servers * option.server_monthly_eur


def draw(report: CostReport, path: Path) -> None:
    """Draw the plot into a file.

    Args:
        report: with or without options or a hosted alternative; missing ones are not drawn.
        path: PNG, SVG or PDF, by its ending.
    """
    import numpy as np
    from matplotlib.figure import Figure

    volumes = np.geomspace(min(1e5, report.tokens_per_day / 10), max(1e9, report.tokens_per_day * 10), POINTS)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    if report.hosted:
        eur = report.hosted.eur_per_million_tokens
        name = f"{report.hosted.provider}: {report.hosted.model}, €{eur:.2f} a million"
        axes.plot(volumes, volumes * DAYS_PER_MONTH / 1e6 * eur, color="black", label=literal(name))
    for option, colour in zip(shown_options(report), COLOURS):
        height = [stairs_eur(option, float(volume)) for volume in volumes]
        axes.step(volumes, height, where="post", color=colour, label=literal(f"{option.label}, every server twice"))
    _mark(axes, report)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("tokens a day")
    axes.set_ylabel("€ a month, without staffing")
    axes.set_title(literal(f"{report.model}: own servers against an API"), loc="left", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=120)


def _mark(axes: Axes, report: CostReport) -> None:
    """Mark the break-even and the report's volume."""
    axes.axvline(report.tokens_per_day, color="grey", linestyle=":", linewidth=1, label="this report's volume")
    at = report.break_even_tokens_per_day
    if at is None or report.hosted is None:
        return
    height = at * DAYS_PER_MONTH / 1e6 * report.hosted.eur_per_million_tokens
    axes.plot([at], [height], "o", color=MARK, zorder=5)
    axes.annotate(
        f"break-even: {at / 1e6:,.1f} million tokens a day",
        (at, height),
        textcoords="offset points",
        xytext=(8, -16),
        fontsize=8,
        color=MARK,
    )
