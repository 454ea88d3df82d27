"""What the planner answers: a row for each GPU, number of GPUs and scheme."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["fits", "tight", "no"]


class StageMemory(BaseModel):
    """One stage of the pipeline; sizes are per GPU, in GiB."""

    model_config = ConfigDict(frozen=True)

    layers: int
    weights_gib: float
    activation_gib: float
    non_torch_gib: float
    kv_gib: float
    kv_tokens: int


class FitRow(BaseModel):
    """One scheme on one kind of GPU; all sizes are per GPU.

    With `pp` over 1 the terms are those of an inner stage, as an engine's log tells them; `stages` has every
    stage, and the tightest of them decides `kv_tokens`, `max_concurrency` and the verdict.
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
    """Of all layers of one GPU, within every window."""
    kv_gib: float
    """What the engine has for the cache."""
    kv_needed_gib: float
    """What the requests asked for take, each of full context."""
    kv_tokens: int
    """Tokens that the cache holds."""
    activation_gib: float
    non_torch_gib: float
    cuda_graph_gib: float
    capacity_gib: float
    """What the engine may take of the GPU."""
    total_gib: float
    """What is needed of it: all terms with the cache for the requests asked for."""
    max_concurrency: float
    """Requests of full context at once."""
    rule_of_thumb_gib: float
    """Parameters x bytes + 20 %, as the field reckons; for comparison."""
    verdict: Verdict
    band_gib: float
    """How far off the sum may be, either way."""
    reason: str
    change: str = ""
    """The cheapest change that would make it fit; empty where it fits, or none does."""
    stages: tuple[StageMemory, ...] = ()
    """Every stage, where there is more than one."""

    @property
    def overhead_gib(self) -> float:
        """All that is neither weights nor cache."""
        return self.activation_gib + self.non_torch_gib + self.cuda_graph_gib


class FitPlan(BaseModel):
    """What an engine has to be started with."""

    model_config = ConfigDict(frozen=True)

    context: int
    """Longest prompt plus answer, tokens."""
    concurrency: int
    """Requests at once."""
    kv_gib: float
    """Cache that holds them; the largest of the rows that fit."""


class FitReport(BaseModel):
    """What fits where, for a line."""

    model_config = ConfigDict(frozen=True)

    model: str
    profile: str
    """The engine's, with the versions that it holds for."""
    rows: tuple[FitRow, ...]
    schemes: tuple[str, ...]
    """Of the line, those that fit some GPU of it, in the line's order."""
    plan: FitPlan
