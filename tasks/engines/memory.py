"""What an engine takes beside weights and cache, and how it shares a GPU: the profiles in `profiles/`.

One file an engine, found by its name; in it one entry for each span of versions that behaves alike, with its
source. The terms (all in GiB, per GPU):

- activation: the larger of a forward pass over one step's tokens and of sampling, plus what outlives both;
- non-torch: the driver's context, NCCL and the engine's own buffers;
- graphs: captured CUDA graphs.

Which of them lie inside the share of the GPU that the engine was given, the profile says (`inside`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from weighbridge.errors import FitOptionUnknown
from weighbridge.files import read_yaml

NEAREST = "vllm"
BySize = float | tuple[tuple[float, float], ...]
"""A number, or pairs (memory of the GPU in GiB up to which it holds, number), smallest first."""

Term = Literal["weights", "activation", "non_torch", "graphs"]


class Gpu(Protocol):
    """What a profile reads of a GPU (`tasks/fit/hardware/gpus.py`)."""

    @property
    def name(self) -> str:
        """Such as `H100-80GB`."""

    @property
    def memory_gib(self) -> float:
        """All of it."""

    @property
    def utilization(self) -> float:
        """Share of the memory that an engine may take."""

    @property
    def is_host(self) -> bool:
        """Whether it is this machine's own memory."""


class EngineFlags(BaseModel):
    """What the engine calls the settings that change its memory; empty where it has none."""

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
    """GiB of captured CUDA graphs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: float = 0
    per_layer: float = 0
    experts: float = 0
    """More, for a mixture of experts."""


class Activation(BaseModel):
    """Bytes of a step: see `tasks/fit/memory/activation.py`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_numbers: float
    """A token's numbers as wide as the model, during a layer."""
    inner_numbers: float
    """A token's numbers as wide as the feed-forward part, during a layer."""
    logits_bytes: float
    """Of each vocabulary entry and sequence while sampling, beside the logits themselves."""
    number_bytes: int | None = None
    """Of an activation, where that is not the weights' dtype."""
    latent_tokens: int = 0
    """Tokens whose keys and values MLA unfolds at once while it reads a long prompt."""
    expert_workspace: bool = False
    """Whether the fused experts' buffers outlive the layer (vLLM's modular kernels)."""
    tower_cache: bool = False
    """Whether a step's worth of encoded images is held beside it."""


class EngineProfile(BaseModel):
    """One engine in a span of versions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    since: str = "0"
    until: str = ""
    """Last version that it holds for; empty: the newest."""
    nearest: bool = False
    """Whether another version, or another engine, was asked for: the band is wider then."""
    flags: EngineFlags
    weights: Literal["stored", "dense"] = "stored"
    """dense: the engine unpacks weights to its own dtype, so quantizing saves disk and not memory."""
    schemes: tuple[str, ...]
    """That it can serve."""
    processor_needs: dict[str, str | None] = {}
    """Of these schemes without a GPU: the processor's feature that it takes, None where no processor will do."""
    share: BySize
    """Of the memory, unless it is told otherwise."""
    share_of: Literal["physical", "free", "need"]
    """physical: of all memory; free: of what weights and activation leave; need: it takes what the cache needs."""
    inside: tuple[Term, ...]
    """What lies in the share beside the cache; the rest must find room outside it."""
    activation: Activation
    non_torch_gib: dict[int, float]
    """By tensor parallelism."""
    pipeline_non_torch_gib: tuple[float, float] | None = None
    """Of the pipeline's stages, and of its last, instead."""
    host_process_gib: float = 2.0
    """On a processor: the process with its imports."""
    graphs: Graphs
    rope_tables: bool = False
    """Whether tables of rotary positions and MLA's unfolded projections count as weights (`extras.py`)."""
    pages: Literal["grouped", "plain"] = "plain"
    """How hybrid models' cache is paged: vLLM groups layers that keep the same (`pages.py`)."""
    block_tokens: int = 16
    kv_number_bytes: int | None = None
    """Of a cached number by default, where that is not the weights' dtype."""
    window_slack_tokens: int = 0
    """That a windowed layer keeps beside its window, where pages are plain."""
    batched_tokens: BySize
    """Tokens of one step by default; 0 means the context."""
    sequences: BySize
    """Sequences of one step by default; 0 means the concurrency asked."""
    small: tuple[str, ...] = ()
    """GPUs whose name begins so get the defaults of the smallest."""
    chunked_from_tokens: int | None = None
    """Contexts longer than this are cut into steps of 512 tokens although `batched_tokens` is the context."""
    band_gib: float
    """How far off the sum may be: two standard errors where it was measured, a guess marked so where not."""
    source: str

    @property
    def label(self) -> str:
        """Name and versions, for a reader."""
        span = f"{self.since} to {self.until}" if self.until else f"{self.since} and newer"
        return f"{self.name} {span}" if self.since != "0" or self.until else self.name

    def number_bytes(self, gpu: Gpu, published: str) -> int:
        """Of an unquantized number at work: 4 on a processor, where bfloat16 is slow."""
        return 4 if gpu.is_host or published == "F32" else 2

    def step_tokens(self, gpu: Gpu, context: int, asked: int | None) -> int:
        """Tokens that one step may hold."""
        if asked:
            return asked
        default = int(self.sized(self.batched_tokens, gpu))
        if default:
            return default
        return 512 if self.chunked_from_tokens and context > self.chunked_from_tokens else max(context, 2048)

    def step_sequences(self, gpu: Gpu, concurrency: int, asked: int | None) -> int:
        """Sequences that one step may hold."""
        return asked or int(self.sized(self.sequences, gpu)) or concurrency

    def share_of_memory(self, gpu: Gpu) -> float:
        """Share of a GPU that the engine takes by default."""
        return gpu.utilization if gpu.is_host else self.sized(self.share, gpu)

    def sized(self, value: BySize, gpu: Gpu) -> float:
        """The number that holds for a GPU of this size."""
        if not isinstance(value, tuple):
            return value
        smallest = gpu.is_host or gpu.name.startswith(self.small or "-")
        return next((number for up_to, number in value if smallest or gpu.memory_gib < up_to), value[-1][1])


def non_torch_gib(profile: EngineProfile, gpu: Gpu, *, tp: int, pp: int, answers: bool) -> float:
    """What is not the model's: the driver's context, NCCL, buffers; on a processor the process."""
    if gpu.is_host:
        return profile.host_process_gib
    if pp > 1 and tp == 1 and profile.pipeline_non_torch_gib:
        return profile.pipeline_non_torch_gib[answers]
    known = sorted(profile.non_torch_gib)
    return profile.non_torch_gib[max((one for one in known if one <= tp), default=known[0])]


def graphs_gib(profile: EngineProfile, gpu: Gpu, *, layers: int, experts: bool, eager: bool) -> float:
    """Captured CUDA graphs of one stage; they grow with its layers."""
    if eager or gpu.is_host:
        return 0.0
    figures = profile.graphs
    return figures.base + figures.per_layer * layers + (figures.experts if experts else 0)


def engine_profile(engine: str, version: str | None) -> EngineProfile:
    """The profile of an engine's version, or the nearest one: then `nearest` is true.

    Args:
        engine: its name, such as `vllm`.
        version: such as `0.19`; None for the newest profile.

    Raises:
        FitOptionUnknown: the version has no number.
    """
    profiles = _profiles()
    if engine not in profiles:
        return profiles[NEAREST][-1].model_copy(update={"nearest": True})
    spans = profiles[engine]
    if version is None:
        return spans[-1]
    asked = _parts(version)
    if not asked:
        raise FitOptionUnknown(
            f"{version!r} is no version of {engine}.", f"Write it as {engine}@{spans[-1].since}, or leave it out."
        )
    for profile in spans:
        if _parts(profile.since) <= asked and (not profile.until or asked[:2] <= _parts(profile.until)):
            # The newest span is open, but nobody has looked at versions that did not exist then.
            return profile
    below = [profile for profile in spans if _parts(profile.since) <= asked]
    return (below[-1] if below else spans[0]).model_copy(update={"nearest": True})


def engine_names() -> tuple[str, ...]:
    """Engines that have a profile."""
    return tuple(_profiles())


def _parts(version: str) -> tuple[int, ...]:
    """Numbers of a version: `0.19.1` or `v0.19` to (0, 19, …); what is no number ends it."""
    parts = []
    for part in version.lstrip("vV~").split("."):
        digits = "".join(char for char in part if char.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


@cache
def _profiles() -> dict[str, list[EngineProfile]]:
    found = {}
    for path in sorted((Path(__file__).parent / "profiles").glob("*.yaml")):
        entry: dict[str, Any] = read_yaml(path)
        common, spans = {k: v for k, v in entry.items() if k != "versions"}, entry["versions"]
        found[path.stem] = [EngineProfile(**{"name": path.stem, **common, **span}) for span in spans]
    return found
