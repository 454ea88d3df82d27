"""The fit: which scheme of a line fits which of its GPUs, with the numbers that it rests on.

One row a GPU and scheme. Needed = weights + cache for the line's requests + overhead; there is
utilization x physical memory. `tight` has less than 5 % to spare: it goes on, and the artifact's real size
decides later. What this does *not* know yet: several GPUs for one model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from registry.store import GIB
from tasks.fit.advice import cheapest_changes
from tasks.fit.engine_memory import EngineProfile, engine_profile
from tasks.fit.gpus import Gpu, gpu
from tasks.fit.kv import kv_cost
from tasks.fit.schemes import SchemeSize, scheme_size
from tasks.fit.shape import ModelShape, shape_of_source
from tasks.fit.weights import dense_bytes, held_tensors, weights_bytes
from tasks.source.hub import Source
from weighbridge.errors import ArchitectureUnknown, DoesNotFit
from weighbridge.line import Line

TIGHT_SHARE = 0.05
"""The planner's own uncertainty: with less to spare than this the answer is `tight`."""

Verdict = Literal["fits", "tight", "no"]


class FitRow(BaseModel):
    """One scheme on one kind of GPU; all sizes are per GPU."""

    model_config = ConfigDict(frozen=True)

    gpu: str
    count: int = 1
    """GPUs for one model."""
    scheme: str
    weights_gib: float
    kv_bytes_per_token: int
    kv_gib: float
    """Cache for the line's requests, each of full context."""
    overhead_gib: float
    """Activations, the driver's context, the process."""
    total_gib: float
    capacity_gib: float
    """What the engine may take."""
    max_concurrency: float
    """Requests of full context that the memory left by the rest would hold."""
    verdict: Verdict
    reason: str


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
    """What fits where."""

    model_config = ConfigDict(frozen=True)

    model: str
    profile: str
    """Engine whose memory was planned for; another than the line's where that has no profile."""
    rows: tuple[FitRow, ...]
    schemes: tuple[str, ...]
    """Of the line, in its order, those that fit at least one of its GPUs."""
    plan: FitPlan


def fit(model: Source | ModelShape, line: Line) -> FitReport:
    """Plan a model's memory on every GPU of a line, before a byte of weights is downloaded.

    Args:
        model: a pinned release, whose headers are read from the Hub, or a model's shape.
        line: names GPUs, schemes, context, concurrency and the engine.

    Raises:
        DoesNotFit: no scheme fits any of the GPUs; with the nearest miss and what would change it.
        GpuUnknown, SchemeUnknown: the line names something that is not known.
        ArchitectureUnknown: config.json lacks what the planner needs; the field is named.
        SourceUnreachable, SourceUnknown, SourceDamaged: the headers could not be read.
    """
    gpus = [gpu(name) for name in line.target.gpus]
    schemes = [scheme_size(name) for name in line.schemes]
    shape = shape_of_source(model) if isinstance(model, Source) else model
    rows = tuple(fit_row(shape, line, card, scheme) for scheme in schemes for card in gpus)
    good = [row for row in rows if row.verdict != "no"]
    if not good:
        raise _does_not_fit(shape, line, rows)
    return FitReport(
        model=shape.name,
        profile=engine_profile(line.engine.name).name,
        rows=rows,
        schemes=tuple(name for name in line.schemes if any(row.scheme == name for row in good)),
        plan=FitPlan(
            context=line.target.context,
            concurrency=line.target.concurrency,
            kv_gib=max(row.kv_gib for row in good),
        ),
    )


def fit_row(shape: ModelShape, line: Line, card: Gpu, scheme: SchemeSize) -> FitRow:
    """Plan one scheme on one GPU.

    Raises:
        ArchitectureUnknown: config.json lacks what the planner needs.
    """
    profile = engine_profile(line.engine.name)
    cost = kv_cost(shape.config, profile.kv_number_bytes(card, line))
    request = cost.request_bytes(line.target.context)
    cache = request * line.target.concurrency
    overhead = profile.overhead_bytes(card, line, shape.config)
    capacity = profile.capacity_bytes(card, line)
    obstacle = _obstacle(shape, card, scheme)
    try:
        weights = _weights(shape, profile, card, scheme)
    except ArchitectureUnknown as unsuitable:
        obstacle, weights = obstacle or unsuitable.what, weights_bytes(shape.tensors, scheme_size("bf16"))
    total = weights + cache + overhead
    verdict: Verdict = (
        "no" if obstacle or total > capacity else "tight" if total > capacity * (1 - TIGHT_SHARE) else "fits"
    )
    return FitRow(
        gpu=card.name,
        scheme=scheme.name,
        weights_gib=round(weights / GIB, 4),
        kv_bytes_per_token=cost.bytes_per_token,
        kv_gib=round(cache / GIB, 4),
        overhead_gib=round(overhead / GIB, 4),
        total_gib=round(total / GIB, 4),
        capacity_gib=round(capacity / GIB, 4),
        max_concurrency=round(max(0, capacity - weights - overhead) / request, 2),
        verdict=verdict,
        reason=obstacle or _reason(weights, cache, total, capacity, cost.window_tokens),
    )


def _weights(shape: ModelShape, profile: EngineProfile, card: Gpu, scheme: SchemeSize) -> int:
    tensors = held_tensors(shape.tensors, shape.config)
    stored = weights_bytes(tensors, scheme)
    if profile.weights == "dense":
        return max(stored, dense_bytes(tensors, profile.number_bytes(card)))
    return stored


def _obstacle(shape: ModelShape, card: Gpu, scheme: SchemeSize) -> str:
    """Why a scheme cannot be had on a GPU whatever its memory, or nothing."""
    if scheme.weight_bits is None:
        return ""
    if shape.quantized_by:
        return f"the release is quantized already ({shape.quantized_by}); it can only be served as published"
    if scheme.name not in card.supports:
        return f"{card.name} does not run {scheme.name}"
    return ""


def _reason(weights: int, cache: int, total: int, capacity: int, window: int | None) -> str:
    capped = f"; windowed layers keep {window} tokens" if window else ""
    if total <= capacity:
        return f"{(capacity - total) / GIB:.2f} GiB to spare{capped}"
    if weights > capacity:
        return f"the weights alone are {(weights - capacity) / GIB:.2f} GiB too large"
    binding = "the cache" if cache > weights else "the weights"
    return f"{(total - capacity) / GIB:.2f} GiB too much, most of it {binding}{capped}"


def _does_not_fit(shape: ModelShape, line: Line, rows: tuple[FitRow, ...]) -> DoesNotFit:
    """The refusal, with the row that came nearest."""
    # A row that would have room is there for another reason, which more room does not change.
    nearest = min(rows, key=lambda row: (row.total_gib <= row.capacity_gib, row.total_gib - row.capacity_gib))
    changes = cheapest_changes(line, lambda changed, card, scheme: fit_row(shape, changed, card, scheme))
    return DoesNotFit(
        f"No scheme of {line.name} fits any of its GPUs. Nearest: {nearest.scheme} on {nearest.gpu} needs "
        f"{nearest.total_gib:.2f} GiB (weights {nearest.weights_gib:.2f}, cache {nearest.kv_gib:.2f} for "
        f"{line.target.concurrency} x {line.target.context} tokens, rest {nearest.overhead_gib:.2f}) of "
        f"{nearest.capacity_gib:.2f}: {nearest.reason}.",
        f"{changes} in lines/{line.name}.yaml." if changes else "Choose a smaller model: no known GPU holds this one.",
        where=shape.name,
    )
