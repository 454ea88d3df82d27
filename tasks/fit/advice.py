"""Changes that would make a model fit: the cheapest first, each tested before it is suggested."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tasks.fit.hardware.gpus import HOST, Gpu, gpu_names
from tasks.fit.hardware.gpus import gpu as find_gpu
from tasks.fit.memory.terms import PlannedModel
from tasks.fit.plan import fit_row
from tasks.fit.request import FitRequest
from tasks.fit.rows import FitRow
from tasks.schemes import Scheme, all_schemes

SHORTEST_CONTEXT_TOKENS = 512
"""Shorter contexts are not suggested."""
CONCURRENCY_WORTH_KEEPING = 2
"""Lower concurrency is the cheapest change as long as at least one in this many requests remains."""


def cheapest_change(model: PlannedModel, request: FitRequest, gpu: Gpu, scheme: Scheme, row: FitRow) -> str:
    """Name the cheapest change that makes a row fit, as a short phrase; empty if there is none.

    In this order: a smaller KV dtype; fewer requests at once, down to half; a smaller scheme; more GPUs;
    still fewer requests or a shorter context; a larger GPU.

    Args:
        model, request, gpu, scheme: the row's.
        row: does not fit.
    """
    return next(changes(model, request, gpu, scheme, row.tp, row.pp), "")


def changes(model: PlannedModel, request: FitRequest, gpu: Gpu, scheme: Scheme, tp: int, pp: int) -> Iterator[str]:
    """Yield every change that makes a row fit, cheapest first."""

    def fits(changed: FitRequest = request, on: Gpu = gpu, by: Scheme = scheme, gpus: int = tp) -> bool:
        return fit_row(model, changed, on, by, gpus, pp).verdict == "fits"

    if request.kv_dtype == "auto" and not gpu.is_host and request.profile.flags.kv_dtype:
        fp8 = request.model_copy(update={"kv_dtype": "fp8"})
        if "fp8" in gpu.capabilities and fits(fp8):
            yield "an fp8 cache (--kv-dtype fp8)"
    fewer = _concurrency(request, fits)
    if fewer and fewer * CONCURRENCY_WORTH_KEEPING >= request.concurrency:
        yield f"concurrency {fewer}"
    for smaller in _smaller_schemes(model, request, gpu, scheme):
        if fits(by=smaller):
            yield f"scheme {smaller.name}"
            break
    for count in (2, 4, 8):
        if count > tp and pp == 1 and not gpu.is_host and fits(gpus=count):
            yield f"--tp {count}"
            break
    if fewer and fewer * CONCURRENCY_WORTH_KEEPING < request.concurrency:
        yield f"concurrency {fewer}"
    shorter = _context(request, fits) if not fewer else 0
    if shorter:
        yield f"context {shorter} and concurrency 1"
    larger = sorted((find_gpu(name) for name in gpu_names() if name != HOST), key=lambda other: other.memory_gib)
    for other in larger:
        if other.memory_gib > gpu.memory_gib and fits(on=other):
            yield other.name
            break


def _smaller_schemes(model: PlannedModel, request: FitRequest, gpu: Gpu, scheme: Scheme) -> list[Scheme]:
    if model.shape.quantized_by:
        return []
    profile = request.profile
    smaller = (
        other
        for other in all_schemes()
        if other.written and other.weight_bits < scheme.weight_bits and profile.serves(other) and gpu.runs(other)
    )
    return sorted(smaller, key=lambda other: -other.weight_bits)


def _concurrency(request: FitRequest, fits: Callable[[FitRequest], bool]) -> int:
    """Find the highest concurrency below the requested one that fits; 0 if even one request does not."""
    if request.concurrency == 1 or not fits(request.model_copy(update={"concurrency": 1})):
        return 0
    low, high = 1, request.concurrency
    while high - low > 1:
        middle = (low + high) // 2
        if fits(request.model_copy(update={"concurrency": middle})):
            low = middle
        else:
            high = middle
    return low


def _context(request: FitRequest, fits: Callable[[FitRequest], bool]) -> int:
    context = request.context
    while (context := context // 2) >= SHORTEST_CONTEXT_TOKENS:
        if fits(request.model_copy(update={"context": context, "concurrency": 1})):
            return context
    return 0
