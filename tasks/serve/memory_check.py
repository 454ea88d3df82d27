"""An engine's memory, before and after its start: is there room beside what runs, and was the plan right?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.fit.hardware.free_memory import check_room
from tasks.fit.hardware.gpus import HOST
from tasks.fit.hardware.measured_memory import compare, keep, read_log
from tasks.fit.report import rows_of_folder
from tasks.fit.rows import FitRow
from weighbridge.errors import ArchitectureUnknown
from weighbridge.line import Line
from weighbridge.units import GIB


def planned_rows(line: Line, scheme: str, model_folder: Path, tell: Callable[[str], None]) -> tuple[FitRow, ...]:
    """What a model needs on each of its line's GPUs; none where that is not known, which is said.

    Args:
        line: whose GPUs and engine.
        scheme: of the artifact.
        model_folder: its files.
        tell: called with a sentence.
    """
    try:
        return rows_of_folder(model_folder, line, scheme)
    except ArchitectureUnknown as unknown:
        tell(f"Memory is not planned: {unknown.what}")
        return ()


def check_before_start(rows: Sequence[FitRow], free_gib: dict[str, tuple[float, ...]], who: str) -> None:
    """Refuse a start that would not find its memory; what is not planned passes.

    Args:
        rows: from `planned_rows`.
        free_gib: free memory by kind of GPU, as `Fleet.free_memory` returns it.
        who: what is to start, for messages.

    Raises:
        NoRoomBeside: what is needed is not free.
    """
    if rows:
        check_room(rows, free_gib, who)


def note_after_start(
    rows: Sequence[FitRow], digest: str, engine_version: str, log: Path, pid: int, tell: Callable[[str], None]
) -> None:
    """Read what the engine took and keep it beside the prediction, for the release's record.

    Args:
        rows: from `planned_rows`.
        digest: the artifact's.
        engine_version: as recorded.
        log: the engine's.
        pid: of its process; its memory counts where the line runs on this machine's own.
        tell: called with the comparison.
    """
    if not rows:
        return
    row = next((one for one in rows if one.verdict != "no"), rows[0])
    measured = read_log(log.read_text(errors="replace")) if log.is_file() else {}
    if row.gpu == HOST:
        measured["total_gib"] = _process_gib(pid)
    reality = compare(row, engine_version, measured)
    if reality is not None:
        keep(digest, reality)
        tell(f"Memory of {reality.sentence}")


def _process_gib(pid: int) -> float:
    """Resident memory of a process and all that it started."""
    import psutil

    try:
        parent = psutil.Process(pid)
        return sum(one.memory_info().rss for one in (parent, *parent.children(recursive=True))) / GIB
    except psutil.NoSuchProcess:
        return 0.0
