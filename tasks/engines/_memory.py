"""An engine's memory profile: its memory beside weights and cache, and its share of a GPU.

One profile for each span of versions that behaves alike, with its source. The terms (all in GiB, per GPU):

- activation: the larger of a forward pass over one step's tokens and of sampling, plus what outlives both;
- non-torch: the driver's context, NCCL and the engine's own buffers;
- graphs: captured CUDA graphs.

The profile's `inside` lists which of them lie inside the engine's share of the GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from tasks.schemes import Scheme
from weighbridge.documents import read_yaml
from weighbridge.errors import FitOptionUnknown

BySize = float | tuple[tuple[float, float], ...]
"""A number, or pairs (GPU memory in GiB below which it holds, number), smallest first."""

MemoryTerm = Literal["weights", "activation", "non_torch", "graphs"]


class GpuMemory(Protocol):
    """The properties of a GPU that a profile reads; `tasks.fit.hardware.gpus.Gpu` has them."""

    @property
    def name(self) -> str:
        """Name in the catalogue, such as `H100`."""

    @property
    def memory_gib(self) -> float:
        """Total memory."""

    @property
    def utilization(self) -> float:
        """Share of the memory that an engine may take."""

    @property
    def is_host(self) -> bool:
        """Whether it is this machine's memory."""


class EngineFlags(BaseModel):
    """The engine's names for the settings that change its memory; empty where it has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    utilization: str = ""
    sequences: str = ""
    batched_tokens: str = ""
    kv_dtype: str = ""
    dtype: str = ""
    tensor_parallel: str = ""
    pipeline_parallel: str = ""
    eager: str = ""


class Graphs(BaseModel):
    """Size of captured CUDA graphs, GiB."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: float = 0
    per_layer: float = 0
    experts: float = 0
    """Added for a mixture of experts."""


class Activation(BaseModel):
    """Coefficients of one step's memory; `tasks/fit/memory/activation.py` has the formula."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_numbers: float
    """Vectors of the model's width that a token takes in a layer."""
    inner_numbers: float
    """Vectors of the feed-forward width that a token takes in a layer."""
    logits_bytes: float
    """Bytes per vocabulary entry and sequence while sampling, beside the logits themselves."""
    number_bytes: int | None = None
    """Bytes of one activation; None: as the weights' dtype."""
    latent_tokens: int = 0
    """Tokens whose keys and values MLA unfolds at once while it reads a long prompt."""
    expert_workspace: bool = False
    """Whether the fused experts' buffers outlive the layer (vLLM's modular kernels)."""
    tower_cache: bool = False
    """Whether a step's worth of encoded images is held beside it."""


class EngineProfile(BaseModel):
    """One engine's memory in a span of versions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    since: str = "0"
    until: str = ""
    """Last version that it holds for; empty: the newest."""
    nearest: bool = False
    """Whether no profile covers the requested version; the error band is doubled then."""
    flags: EngineFlags = EngineFlags()
    weights: Literal["stored", "dense"] = "stored"
    """dense: the engine unpacks weights to its own dtype, so quantizing saves disk and not memory."""
    kernels: tuple[str, ...]
    """Kernels beside the plain 16-bit ones; a scheme is served if its `kernel` is listed."""
    processor_needs: dict[str, str | None] = {}
    """Without a GPU: the processor feature that a kernel needs, None where it runs on GPUs only."""
    share: BySize
    """Share of the memory that it takes, unless a flag sets it."""
    share_of: Literal["physical", "free", "need"]
    """physical: of all memory; free: of the memory beside weights and activation; need: only what the cache needs."""
    inside: tuple[MemoryTerm, ...]
    """Terms that lie in the share beside the cache; the others must fit outside it."""
    activation: Activation
    non_torch_gib: dict[int, float]
    """By tensor parallelism."""
    pipeline_non_torch_gib: tuple[float, float] | None = None
    """With pipeline parallelism instead: of an inner stage, and of the last."""
    host_process_gib: float = 2.0
    """On a processor: the process with its imports."""
    graphs: Graphs = Graphs()
    rope_tables: bool = False
    """Whether rotary tables and MLA's unfolded projections count as weights (`tasks/fit/memory/extra_weights.py`)."""
    pages: Literal["grouped", "plain"] = "plain"
    """How hybrid models' cache is paged; grouped: as vLLM does (`tasks/fit/memory/pages.py`)."""
    block_tokens: int = 16
    kv_number_bytes: int | None = None
    """Bytes of a cached number by default; None: as the weights' dtype."""
    window_slack_tokens: int = 0
    """Tokens that a windowed layer keeps beside its window, where pages are plain."""
    batched_tokens: BySize = 0.0
    """Tokens of one step by default; 0: the context."""
    sequences: BySize = 0.0
    """Sequences of one step by default; 0: the requested concurrency."""
    small: tuple[str, ...] = ()
    """Prefixes of names of GPUs that get the defaults of the smallest."""
    chunked_from_tokens: int | None = None
    """Contexts longer than this are cut into steps of 512 tokens although `batched_tokens` is the context."""
    band_gib: float
    """Error of the sum: two standard errors where it was measured, a guess (marked so) where not."""
    source: str

    @property
    def label(self) -> str:
        """Name and versions, for a reader."""
        span = f"{self.since} to {self.until}" if self.until else f"{self.since} and newer"
        return f"{self.name} {span}" if self.since != "0" or self.until else self.name

    def serves(self, scheme: Scheme) -> bool:
        """Whether the engine has the kernel that a scheme needs."""
        return not scheme.kernel or scheme.kernel in self.kernels

    def number_bytes(self, gpu: GpuMemory, published: str) -> int:
        """Bytes of an unquantized number at work: 4 on a processor, where bfloat16 is slow."""
        return 4 if gpu.is_host or published == "F32" else 2

    def step_tokens(self, gpu: GpuMemory, context: int, requested: int | None) -> int:
        """Tokens that one step may hold."""
        if requested:
            return requested
        default = int(self.sized(self.batched_tokens, gpu))
        if default:
            return default
        return 512 if self.chunked_from_tokens and context > self.chunked_from_tokens else max(context, 2048)

    def step_sequences(self, gpu: GpuMemory, concurrency: int, requested: int | None) -> int:
        """Sequences that one step may hold."""
        return requested or int(self.sized(self.sequences, gpu)) or concurrency

    def share_of_memory(self, gpu: GpuMemory) -> float:
        """Share of a GPU that the engine takes by default."""
        return gpu.utilization if gpu.is_host else self.sized(self.share, gpu)

    def sized(self, value: BySize, gpu: GpuMemory) -> float:
        """Pick the number that holds for a GPU of this size."""
        if not isinstance(value, tuple):
            return value
        smallest = gpu.is_host or gpu.name.startswith(self.small or "-")
        return next((number for up_to, number in value if smallest or gpu.memory_gib < up_to), value[-1][1])


def non_torch_gib(profile: EngineProfile, gpu: GpuMemory, *, tp: int, pp: int, has_head: bool) -> float:
    """Memory outside the model: the driver's context, NCCL, buffers; on a processor the process.

    Args:
        tp, pp: tensor and pipeline parallelism.
        has_head: whether this stage is the pipeline's last.
    """
    if gpu.is_host:
        return profile.host_process_gib
    if pp > 1 and tp == 1 and profile.pipeline_non_torch_gib:
        return profile.pipeline_non_torch_gib[has_head]
    known = sorted(profile.non_torch_gib)
    return profile.non_torch_gib[max((count for count in known if count <= tp), default=known[0])]


def graphs_gib(profile: EngineProfile, gpu: GpuMemory, *, layers: int, experts: bool, eager: bool) -> float:
    """Captured CUDA graphs of one stage; they grow with its layers."""
    if eager or gpu.is_host:
        return 0.0
    figures = profile.graphs
    return figures.base + figures.per_layer * layers + (figures.experts if experts else 0)


def read_profiles(name: str, path: Path) -> tuple[EngineProfile, ...]:
    """Read an engine's profiles from the YAML file beside its module.

    Args:
        name: the engine's, as lines write it.
        path: a mapping of the fields that all versions share, and `versions`: one entry for each span, oldest first.
    """
    fields: dict[str, Any] = read_yaml(path)
    shared = {field: value for field, value in fields.items() if field != "versions"}
    return tuple(EngineProfile(**{"name": name, **shared, **span}) for span in fields["versions"])


def profile_of_version(spans: tuple[EngineProfile, ...], version: str | None) -> EngineProfile:
    """Pick the profile of an engine's version, or the nearest one, marked `nearest`.

    Args:
        spans: of one engine, oldest first.
        version: such as `0.19`; None for the newest profile.

    Raises:
        FitOptionUnknown: the version has no number.
    """
    if version is None:
        return spans[-1]
    requested = _version_numbers(version)
    if not requested:
        name = spans[-1].name
        raise FitOptionUnknown(
            f"{version!r} is no version of {name}.", f"Write it as {name}@{spans[-1].since}, or leave it out."
        )
    for profile in spans:
        # The newest span is open, although versions that did not exist when it was written may differ.
        if _version_numbers(profile.since) <= requested and (
            not profile.until or requested[:2] <= _version_numbers(profile.until)
        ):
            return profile
    below = [profile for profile in spans if _version_numbers(profile.since) <= requested]
    return (below[-1] if below else spans[0]).model_copy(update={"nearest": True})


def _version_numbers(version: str) -> tuple[int, ...]:
    """Parse `0.19.1` or `v0.19` into (0, 19, …); the first part without a digit ends it."""
    numbers = []
    for part in version.lstrip("vV~").split("."):
        digits = "".join(char for char in part if char.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
