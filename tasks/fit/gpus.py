"""The GPUs that a line may name, and `host`: this machine's own memory."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from tasks.fit.schemes import scheme_names
from weighbridge.errors import GpuUnknown

HOST = "host"
GPU_UTILIZATION = 0.9
"""vLLM's default share of a GPU's memory up to 0.20; the rest is for CUDA graphs and whoever else is there."""
HOST_UTILIZATION = 0.8
"""Of a machine's memory; the rest is for the system, its page cache and the local stack (about 2 GB)."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Gpu(BaseModel):
    """One kind of memory that a model can be served from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory_gib: float
    """As programs see it."""
    bandwidth_gbs: float
    """0 when not known."""
    supports: tuple[str, ...]
    """Schemes beside bf16."""
    source: str

    @property
    def is_host(self) -> bool:
        """Whether this is the machine's own memory."""
        return self.name == HOST

    @property
    def utilization(self) -> float:
        """Share of the memory that an engine may take unless it is told otherwise."""
        return HOST_UTILIZATION if self.is_host else GPU_UTILIZATION


def gpu_names() -> tuple[str, ...]:
    """Names that a line may use, `host` last."""
    return (*_catalogue(), HOST)


def gpu(name: str) -> Gpu:
    """The GPU of a name.

    Raises:
        GpuUnknown: `gpus.yaml` does not list it.
    """
    if name == HOST:
        return _host()
    if name not in _catalogue():
        raise GpuUnknown(
            f"There is no GPU called {name!r}; known: {', '.join(gpu_names())}.",
            "Name one of these under `target.gpus`, or add yours to tasks/fit/gpus.yaml.",
        )
    return _catalogue()[name]


@cache
def _catalogue() -> dict[str, Gpu]:
    entries = yaml.safe_load(Path(__file__).with_name("gpus.yaml").read_text())
    return {name: Gpu(name=name, **fields) for name, fields in entries.items()}


def _host() -> Gpu:
    import psutil

    total = psutil.virtual_memory().total
    # A container sees the whole machine's memory and may have a part of it.
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    usable = min(total, int(limit)) if limit.isdigit() else total
    return Gpu(
        name=HOST,
        memory_gib=usable / 2**30,
        bandwidth_gbs=0,
        supports=tuple(name for name in scheme_names() if name != "bf16"),
        source="psutil, and the container's limit where there is one",
    )
