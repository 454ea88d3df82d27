"""Is there room *now*: what is free on this machine, beside all that runs, against what an engine needs."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.fit.hardware.gpus import gpu
from tasks.fit.rows import FitRow
from weighbridge.errors import NoRoomBeside
from weighbridge.units import GIB


def check_room(rows: Sequence[FitRow], free_gib: dict[str, tuple[float, ...]], who: str) -> None:
    """Refuse to start an engine that has no room beside what runs already.

    Args:
        rows: the artifact on each of the line's GPUs.
        free_gib: from `free_memory`; a kind of GPU that is not in it is not known, and passes.
        who: what is to start, for the message.

    Raises:
        NoRoomBeside: none of the line's GPUs has room; what is needed and what is free are named.
    """
    known = [row for row in rows if row.gpu in free_gib]
    if not known or len(known) < len(rows):
        return
    if any(_has_room(row, free_gib[row.gpu]) for row in known):
        return
    nearest = min(known, key=lambda row: needed_gib(row) - max(free_gib[row.gpu], default=0.0))
    free = ", ".join(f"{one:.2f}" for one in free_gib[nearest.gpu])
    several = f" on each of {nearest.count} GPUs" if nearest.count > 1 else ""
    raise NoRoomBeside(
        f"{who} needs {needed_gib(nearest):.2f} GiB of {nearest.gpu}{several} beside what runs; free: {free} GiB.",
        "Nothing was touched. Stop what is kept warm (rollout.keep_warm_minutes: 0), give the engine "
        "a smaller share (its utilization flag), add a GPU, or let the line do without an engine for as long as the "
        "new one starts (rollout.when_no_room: swap).",
        where=nearest.gpu,
    )


def needed_gib(row: FitRow) -> float:
    """GiB a GPU that must be free: the engine's whole share where it takes one at its start, else what it needs."""
    return row.total_gib if gpu(row.gpu).is_host else max(row.total_gib, row.capacity_gib)


def free_memory() -> dict[str, tuple[float, ...]]:
    """GiB that are free: of the machine's own memory, and of each GPU, by the name of its kind.

    GPUs are asked through NVIDIA's library; where there is none, nothing is said of GPUs.
    """
    import psutil

    return {"host": (psutil.virtual_memory().available / GIB,), **_free_gpus()}


def _free_gpus() -> dict[str, tuple[float, ...]]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        found: dict[str, list[float]] = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
            name = _kind(memory.total / GIB, str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index))))
            if name:
                found.setdefault(name, []).append(memory.free / GIB)
        return {name: tuple(free) for name, free in found.items()}
    finally:
        pynvml.nvmlShutdown()


def _kind(total_gib: float, name: str) -> str | None:
    """Our name of a GPU that NVIDIA calls `name`: the one that it contains, of the nearest size."""
    from tasks.fit.hardware.gpus import gpu_names

    plain = name.replace(" ", "").replace("-", "").lower()
    close = [
        one
        for one in gpu_names()
        if one != "host" and one.split("-")[0].lower() in plain and abs(gpu(one).memory_gib / total_gib - 1) < 0.1
    ]
    return max(close, key=len, default=None) if "pcie" in plain else min(close, key=len, default=None)


def _has_room(row: FitRow, free: tuple[float, ...]) -> bool:
    return sum(one >= needed_gib(row) for one in free) >= row.count
