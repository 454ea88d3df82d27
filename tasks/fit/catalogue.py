"""Fit a model on every requested combination of GPU, scheme and number of GPUs."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.fit.advice import cheapest_change
from tasks.fit.hardware.gpus import HOST, Gpu, gpu_names
from tasks.fit.hardware.gpus import gpu as find_gpu
from tasks.fit.memory.kv import cache_of, check_against_tensors
from tasks.fit.memory.terms import PlannedModel
from tasks.fit.memory.weights import KEYS_VALUES, Weights
from tasks.fit.model.shape import ModelShape
from tasks.fit.plan import fit_row
from tasks.fit.request import FitRequest
from tasks.fit.rows import FitRow
from tasks.schemes import AS_PUBLISHED, Scheme, all_schemes
from tasks.schemes import scheme as find_scheme

COUNTS = (2, 4, 8)
"""Numbers of GPUs in a node that are tried when one is not enough."""


def model_of(shape: ModelShape) -> PlannedModel:
    """Prepare what all rows of a model share: its shape, weights and cache.

    Raises:
        ArchitectureUnknown: the cache of its layers is not known, or contradicts its tensors.
    """
    cache = cache_of(shape.config)
    if not shape.quantized_by:
        rows: dict[int, int] = {}
        for part in shape.parts:
            if part.layer is not None and KEYS_VALUES.search(part.name) and part.name.endswith(".weight"):
                rows[part.layer] = rows.get(part.layer, 0) + part.shape[0]
        check_against_tensors(shape.config, cache, list(rows.values()))
    return PlannedModel(shape, Weights(shape), cache)


def catalogue(
    shape: ModelShape,
    request: FitRequest,
    *,
    gpus: Iterable[str] = (),
    schemes: Iterable[str] = (),
    tp: int | None = None,
    pp: int | None = None,
) -> tuple[FitRow, ...]:
    """Plan a model on GPUs, under schemes.

    Args:
        shape: from `shape_of`.
        request: context, concurrency and engine.
        gpus: names; the whole catalogue by default, without `host`.
        schemes: names; by default all that the engine serves, or a quantized release's own.
        tp, pp: tensor and pipeline parallelism; by default one GPU, and if that is not enough also the smallest
            number of GPUs of a node that is.

    Raises:
        GpuUnknown, SchemeUnknown, FitOptionUnknown: a name is unknown.
        ArchitectureUnknown: the cache of its layers is not known.
    """
    chosen_gpus = [find_gpu(name) for name in gpus or [name for name in gpu_names() if name != HOST]]
    model = model_of(shape)
    chosen = [find_scheme(name) for name in schemes or _usual(model, request)]
    rows: list[FitRow] = []
    for gpu in chosen_gpus:
        for scheme in chosen:
            rows += _rows(model, request, gpu, scheme, tp, pp)
    return tuple(rows)


def _usual(model: PlannedModel, request: FitRequest) -> tuple[str, ...]:
    published = model.weights.published
    if published:
        return (published.name,)
    if model.shape.quantized_by:
        return (AS_PUBLISHED,)
    return tuple(scheme.name for scheme in all_schemes() if request.profile.serves(scheme))


def _rows(
    model: PlannedModel, request: FitRequest, gpu: Gpu, scheme: Scheme, tp: int | None, pp: int | None
) -> list[FitRow]:
    first = fit_row(model, request, gpu, scheme, tp or 1, pp or 1)
    rows = [first]
    if first.verdict == "no" and tp is None and pp is None and not gpu.is_host:
        more = (fit_row(model, request, gpu, scheme, count) for count in COUNTS)
        enough = next((row for row in more if row.verdict != "no"), None)
        rows += [enough] if enough else []
    return [
        row
        if row.verdict == "fits"
        else row.model_copy(update={"change": cheapest_change(model, request, gpu, scheme, row)})
        for row in rows
    ]
