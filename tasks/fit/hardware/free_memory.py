"""Free memory of this machine's GPUs and of the machine itself, against what an engine needs."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.fit.hardware.gpus import gpu
from tasks.fit.rows import FitRow
from weighbridge.errors import NoRoomBeside
from weighbridge.units import GIB


def require_free_memory(rows: Sequence[FitRow], free_gib: dict[str, tuple[float, ...]], who: str) -> None:
    """Refuse to start an engine if there is too little free memory beside the running ones.

    Args:
        rows: the artifact on each of the line's GPUs.
        free_gib: from `free_memory`; a GPU that is not in it is not checked.
        who: the engine to start, for the message.

    Raises:
        NoRoomBeside: none of the line's GPUs has enough; the needed and the free memory are named.
    """
    known = [row for row in rows if row.gpu in free_gib]
    if not known or len(known) < len(rows):
        return
    if any(_has_enough(row, free_gib[row.gpu]) for row in known):
        return
    nearest = min(known, key=lambda row: needed_gib(row) - max(free_gib[row.gpu], default=0.0))
    free = ", ".join(f"{gib:.2f}" for gib in free_gib[nearest.gpu])
    several = f" on each of {nearest.count} GPUs" if nearest.count > 1 else ""
    raise NoRoomBeside(
        f"{who} needs {needed_gib(nearest):.2f} GiB of {nearest.gpu}{several} beside what runs; free: {free} GiB.",
        "Nothing was touched. Stop what is kept warm (rollout.keep_warm_minutes: 0), give the engine "
        "a smaller share (its utilization flag), add a GPU, or let the line do without an engine for as long as the "
        "new one starts (rollout.when_no_room: swap).",
        where=nearest.gpu,
    )


def needed_gib(row: FitRow) -> float:
    """GiB that must be free on each GPU: the engine's share if it reserves one at start, else the sum of terms."""
    return row.total_gib if gpu(row.gpu).is_host else max(row.total_gib, row.capacity_gib)


def free_memory() -> dict[str, tuple[float, ...]]:
    """Free GiB of the machine's own memory (`host`) and of each GPU, by its name in the catalogue.

    GPUs are read through NVIDIA's library; without it, the answer has no GPUs.
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
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = _catalogue_name(memory.total / GIB, str(pynvml.nvmlDeviceGetName(handle)))
            if name:
                found.setdefault(name, []).append(memory.free / GIB)
        return {name: tuple(free) for name, free in found.items()}
    finally:
        pynvml.nvmlShutdown()


def _catalogue_name(total_gib: float, name: str) -> str | None:
    """Find the catalogue's name of a GPU that NVIDIA calls `name`: contained in it, and within 10 % of its size."""
    from tasks.fit.hardware.gpus import gpu_names

    plain = name.replace(" ", "").replace("-", "").lower()
    close = [
        known
        for known in gpu_names()
        if known != "host" and known.split("-")[0].lower() in plain and abs(gpu(known).memory_gib / total_gib - 1) < 0.1
    ]
    return max(close, key=len, default=None) if "pcie" in plain else min(close, key=len, default=None)


def _has_enough(row: FitRow, free: tuple[float, ...]) -> bool:
    return sum(gib >= needed_gib(row) for gib in free) >= row.count
