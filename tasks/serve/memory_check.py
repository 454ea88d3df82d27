"""An engine's memory: check before its start that enough is free, and compare with the plan after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.fit.hardware.free_memory import require_free_memory
from tasks.fit.hardware.gpus import HOST
from tasks.fit.hardware.measured_memory import compare_with_plan, read_log, write_measurement
from tasks.fit.report import rows_of_folder
from tasks.fit.rows import FitRow
from weighbridge.errors import ArchitectureUnknown
from weighbridge.line import Line
from weighbridge.units import GIB


def planned_rows(line: Line, scheme: str, model_folder: Path, report: Callable[[str], None]) -> tuple[FitRow, ...]:
    """Plan a model's memory on each of its line's GPUs; no rows if the architecture is unknown, which is reported.

    Args:
        line: whose GPUs and engine.
        scheme: of the artifact.
        model_folder: its files.
        report: called with a sentence if there is no plan.
    """
    try:
        return rows_of_folder(model_folder, line, scheme)
    except ArchitectureUnknown as unknown:
        report(f"Memory is not planned: {unknown.what}")
        return ()


def check_before_start(rows: Sequence[FitRow], free_gib: dict[str, tuple[float, ...]], who: str) -> None:
    """Refuse a start for which the memory is not free; without a plan the start passes.

    Args:
        rows: from `planned_rows`.
        free_gib: free memory by kind of GPU, as `Fleet.free_memory` returns it.
        who: name of the engine, for messages.

    Raises:
        NoRoomBeside: the memory that is needed is not free.
    """
    if rows:
        require_free_memory(rows, free_gib, who)


def note_after_start(
    rows: Sequence[FitRow], digest: str, engine_version: str, log: Path, pid: int, report: Callable[[str], None]
) -> None:
    """Measure the engine's memory and keep it beside the prediction, for the release's record.

    Args:
        rows: from `planned_rows`.
        digest: the artifact's.
        engine_version: as recorded.
        log: the engine's.
        pid: its process, whose memory is measured if the line runs on this machine's own memory.
        report: called with the comparison.
    """
    if not rows:
        return
    row = next((row for row in rows if row.verdict != "no"), rows[0])
    measured = read_log(log.read_text(errors="replace")) if log.is_file() else {}
    if row.gpu == HOST:
        measured["total_gib"] = _process_gib(pid)
    measured_memory = compare_with_plan(row, engine_version, measured)
    if measured_memory is not None:
        write_measurement(digest, measured_memory)
        report(f"Memory of {measured_memory.sentence}")


def _process_gib(pid: int) -> float:
    """Resident memory of a process and all its descendants, GiB."""
    import psutil

    try:
        parent = psutil.Process(pid)
        return sum(process.memory_info().rss for process in (parent, *parent.children(recursive=True))) / GIB
    except psutil.NoSuchProcess:
        return 0.0
