"""The planner's answer: one row for each combination of GPU, number of GPUs and scheme."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["fits", "tight", "no"]


class StageMemory(BaseModel):
    """One pipeline stage; sizes are per GPU, in GiB."""

    model_config = ConfigDict(frozen=True)

    layers: int
    weights_gib: float
    activation_gib: float
    non_torch_gib: float
    kv_gib: float
    kv_tokens: int


class FitRow(BaseModel):
    """One scheme on one kind of GPU; all sizes are per GPU.

    With `pp` over 1 the terms are those of an inner stage, as engines log them; `stages` has every stage, and the
    tightest of them decides `kv_tokens`, `max_concurrency` and the verdict.
    """

    model_config = ConfigDict(frozen=True)

    gpu: str
    count: int = 1
    """GPUs for one copy of the model: tp x pp."""
    scheme: str
    tp: int = 1
    pp: int = 1
    weights_gib: float
    kv_bytes_per_token: int
    """For all layers on one GPU, while a request is shorter than every window."""
    kv_gib: float
    """Memory that the engine has for the cache."""
    kv_needed_gib: float
    """Cache that the requested concurrency takes, each request at full context."""
    kv_tokens: int
    """Capacity of the cache in tokens."""
    activation_gib: float
    non_torch_gib: float
    cuda_graph_gib: float
    capacity_gib: float
    """Memory of the GPU that the engine may use."""
    total_gib: float
    """Memory needed: all terms, and the cache at the requested concurrency."""
    max_concurrency: float
    """Concurrent requests at full context that the cache holds."""
    rule_of_thumb_gib: float
    """Parameters x bytes + 20 %, the common estimate; for comparison."""
    verdict: Verdict
    band_gib: float
    """Error of the sum, in both directions."""
    reason: str
    change: str = ""
    """The cheapest change that would make it fit; empty if it fits, or no change helps."""
    stages: tuple[StageMemory, ...] = ()
    """Every stage, if there is more than one."""

    @property
    def overhead_gib(self) -> float:
        """Everything beside weights and cache."""
        return self.activation_gib + self.non_torch_gib + self.cuda_graph_gib


class EngineSizing(BaseModel):
    """Load and cache size to start an engine with."""

    model_config = ConfigDict(frozen=True)

    context: int
    """Longest prompt plus answer, tokens."""
    concurrency: int
    """Concurrent requests."""
    kv_gib: float
    """Cache that holds them; the largest among the rows that fit."""


class FitReport(BaseModel):
    """The fit of a line."""

    model_config = ConfigDict(frozen=True)

    model: str
    profile: str
    """Label of the engine's memory profile, with the versions that it covers."""
    rows: tuple[FitRow, ...]
    schemes: tuple[str, ...]
    """The line's schemes that fit at least one of its GPUs, in the line's order."""
    plan: EngineSizing
