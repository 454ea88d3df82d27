"""The catalogue of GPUs that a line may name, and `host`: this machine's memory."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.schemes import Capability, Scheme, all_schemes
from weighbridge.documents import read_yaml
from weighbridge.errors import DocumentInvalid, GpuFileInvalid, GpuUnknown
from weighbridge.settings import load_settings
from weighbridge.units import GIB
from weighbridge.validation import first_fault

HOST = "host"
HOST_UTILIZATION = 0.8
"""Usable share of a machine's memory; the rest is for the system, its page cache and the local stack (about 2 GB)."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Gpu(BaseModel):
    """One kind of GPU, or this machine's memory."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    memory_gib: float = Field(gt=0)
    """Total, as the driver reports it to programs."""
    bandwidth_gbs: float = Field(0, ge=0)
    """0: unknown, also for the next three."""
    bf16_tflops: float = Field(0, ge=0)
    """Without sparsity."""
    fp8_tflops: float = Field(0, ge=0)
    int8_tops: float = Field(0, ge=0)
    compute_capability: str = ""
    """NVIDIA's number, such as 8.9, or AMD's architecture name."""
    capabilities: tuple[Capability, ...]
    """Features that engines have kernels for on this GPU, beside plain 16-bit ones."""
    source: str

    @property
    def is_host(self) -> bool:
        """Whether it is this machine's own memory."""
        return self.name == HOST

    @property
    def utilization(self) -> float:
        """Share of the host's memory that an engine may take; for a GPU the engine's profile has it."""
        return HOST_UTILIZATION if self.is_host else 1.0

    def runs(self, scheme: Scheme) -> bool:
        """Whether the hardware can run a scheme's kernel; on a processor the engine's profile says so instead."""
        return self.is_host or scheme.capability is None or scheme.capability in self.capabilities


def gpu_names() -> tuple[str, ...]:
    """List the names that a line may use, `host` last."""
    return (*_catalogue(), HOST)


def gpu(name: str) -> Gpu:
    """Find a GPU by its name.

    Raises:
        GpuUnknown: `gpus.yaml` does not list it.
    """
    if name == HOST:
        return _host()
    if name not in _catalogue():
        raise GpuUnknown(
            f"There is no GPU called {name!r}; known: {', '.join(gpu_names())}.",
            "Name one of these, or add yours in a file of your own (--gpus-file, WEIGHBRIDGE_GPUS_FILE).",
        )
    return _catalogue()[name]


def use_gpus(path: Path) -> None:
    """Add a file of GPUs to the catalogue for this process; its entries override built-in ones.

    Raises:
        GpuFileInvalid: the file is not valid; the entry and field are named.
    """
    _catalogue().update(read_gpus(path))


@cache
def _catalogue() -> dict[str, Gpu]:
    known = read_gpus(Path(__file__).with_name("gpus.yaml"))
    own = load_settings().gpus_file
    return {**known, **read_gpus(own)} if own else known


def read_gpus(path: Path) -> dict[str, Gpu]:
    """Read a file of GPUs: name -> GPU.

    Raises:
        GpuFileInvalid: the file is not valid; the entry and field are named.
    """

    def invalid(why: str, where: str) -> GpuFileInvalid:
        return GpuFileInvalid(
            why, "Correct it; tasks/fit/hardware/gpus.yaml shows what an entry looks like.", where=where
        )

    try:
        entries: Any = read_yaml(path)
    except DocumentInvalid as error:
        raise invalid(error.what, error.where) from None
    if not isinstance(entries, dict):
        raise invalid("The file of GPUs must map names to their fields.", str(path))
    found = {}
    for name, fields in entries.items():
        if isinstance(fields, dict) and "supports" in fields:
            raise invalid(_capabilities_instead(fields["supports"]), f"{path.name}, {name}")
        try:
            found[str(name)] = Gpu.model_validate({**(fields or {}), "name": str(name)})
        except (ValidationError, TypeError) as error:
            what = first_fault(error, "the entry") if isinstance(error, ValidationError) else f"the entry: {error}"
            raise invalid(f"{what}.", f"{path.name}, {name}") from None
    return found


def _capabilities_instead(supports: Any) -> str:
    """Error text for an entry in the format of earlier versions, which listed schemes; it names the replacement."""
    listed = supports if isinstance(supports, list) else []
    needed = sorted({scheme.capability for scheme in all_schemes() if scheme.capability and scheme.name in listed})
    return f"supports: a GPU lists capabilities now, not schemes; write `capabilities: [{', '.join(needed)}]` instead."


def _host() -> Gpu:
    import psutil

    total = psutil.virtual_memory().total
    # A container sees the whole machine's memory, and may be limited to a part of it.
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    usable = min(total, int(limit)) if limit.isdigit() else total
    return Gpu(
        name=HOST,
        memory_gib=usable / GIB,
        capabilities=(),
        source="psutil, and the container's limit where there is one",
    )
