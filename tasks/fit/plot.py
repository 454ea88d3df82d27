"""Plot of a fit: each row's memory as a stacked bar against the memory available."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.fit.rows import FitRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES, ROW_INCHES, FRAME_INCHES = 8.4, 0.42, 1.1
MANY_ROWS, DENSE_ROW_INCHES = 24, 0.2
# Okabe and Ito's colours: told apart with any colour vision.
PARTS = (
    ("weights", "#0072B2"),
    ("KV cache asked for", "#56B4E9"),
    ("activations", "#E69F00"),
    ("CUDA graphs", "#999999"),
    ("context, NCCL", "#CCCCCC"),
)
VERDICT_COLOURS = {"fits": "#009E73", "tight": "#B8860B", "no": "#D55E00"}


def memory_figure(rows: Sequence[FitRow]) -> Figure:
    """Draw one bar for each row; a black line marks the engine's share, with the verdict beside it."""
    from matplotlib.figure import Figure

    # Without pyplot there is no global list of figures, and any thread can draw.
    height = ROW_INCHES if len(rows) <= MANY_ROWS else DENSE_ROW_INCHES
    figure = Figure(figsize=(WIDTH_INCHES, FRAME_INCHES + height * len(rows)), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(rows):
        left = 0.0
        for (name, colour), gib in zip(PARTS, _sizes(row), strict=True):
            axes.barh(at, gib, left=left, height=0.56, color=colour, label=name if at == 0 else None)
            left += gib
        axes.plot([row.capacity_gib] * 2, [at - 0.4, at + 0.4], color="#222222", linewidth=2)
        axes.annotate(
            row.verdict,
            (max(left, row.capacity_gib), at),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=VERDICT_COLOURS[row.verdict],
            fontsize=8,
        )
    several = len({row.scheme for row in rows}) > 1
    label_rows(axes, [_label(row, several=several) for row in rows])
    for at in range(1, len(rows)):
        if several and rows[at].gpu != rows[at - 1].gpu:
            axes.axhline(at - 0.5, color="#BBBBBB", linewidth=0.6)
    if len(rows) > MANY_ROWS:
        axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("GiB per GPU (black line: the engine may use)")
    axes.set_xlim(0, 1.12 * max(max(row.capacity_gib, sum(_sizes(row))) for row in rows))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(PARTS), frameon=False, fontsize=8)
    return figure


def draw(rows: Sequence[FitRow], path: Path) -> None:
    """Draw rows into a file, in the format of its suffix.

    Raises:
        OSError, ValueError: the file cannot be written, or matplotlib does not know the format.
    """
    memory_figure(rows).savefig(path, dpi=150)


def literal(text: str) -> str:
    """Write a name from a user's file so that matplotlib draws it, and reads no formula between two `$` of it."""
    return text.replace("$", r"\$")


def label_rows(axes: Axes, labels: list[str]) -> None:
    """Label the rows of a bar plot, the first on top."""
    axes.set_yticks(range(len(labels)), [literal(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)


def _sizes(row: FitRow) -> tuple[float, ...]:
    return row.weights_gib, row.kv_needed_gib, row.activation_gib, row.cuda_graph_gib, row.non_torch_gib


def _label(row: FitRow, *, several: bool) -> str:
    name = f"{row.count} × {row.gpu}" if row.count > 1 else row.gpu
    return f"{name}, {row.scheme}" if several else name
