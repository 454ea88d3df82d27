"""What would make a model fit: the cheapest change first, each tried before it is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tasks.fit.hardware.gpus import HOST, Gpu, gpu, gpu_names
from tasks.fit.memory.terms import Model
from tasks.fit.plan import plan_row
from tasks.fit.request import Request
from tasks.fit.rows import FitRow
from tasks.schemes import Scheme, all_schemes

SHORTEST_CONTEXT_TOKENS = 512
"""Nobody is helped by a shorter one."""
CONCURRENCY_WORTH_KEEPING = 2
"""Fewer requests at once are the cheapest change while at least half of them are left."""


def cheapest_change(model: Model, request: Request, card: Gpu, scheme: Scheme, row: FitRow) -> str:
    """One clause that names the cheapest change with which a row fits, or nothing.

    In this order: a smaller cached number; fewer requests at once, down to half; a smaller scheme; more GPUs;
    still fewer requests or a shorter context; a larger GPU.

    Args:
        model, request, card, scheme: of the row.
        row: that does not fit.
    """
    return next(changes(model, request, card, scheme, row.tp, row.pp), "")


def changes(model: Model, request: Request, card: Gpu, scheme: Scheme, tp: int, pp: int) -> Iterator[str]:
    """All changes that make a row fit, cheapest first."""

    def fits(changed: Request = request, on: Gpu = card, by: Scheme = scheme, gpus: int = tp) -> bool:
        return plan_row(model, changed, on, by, gpus, pp).verdict == "fits"

    if request.kv_dtype == "auto" and not card.is_host and request.profile.flags.kv_dtype:
        fp8 = request.model_copy(update={"kv_dtype": "fp8"})
        if "fp8" in card.capabilities and fits(fp8):
            yield "an fp8 cache (--kv-dtype fp8)"
    fewer = _concurrency(request, fits)
    if fewer and fewer * CONCURRENCY_WORTH_KEEPING >= request.concurrency:
        yield f"concurrency {fewer}"
    for smaller in _smaller_schemes(model, request, card, scheme):
        if fits(by=smaller):
            yield f"scheme {smaller.name}"
            break
    for count in (2, 4, 8):
        if count > tp and pp == 1 and not card.is_host and fits(gpus=count):
            yield f"--tp {count}"
            break
    if fewer and fewer * CONCURRENCY_WORTH_KEEPING < request.concurrency:
        yield f"concurrency {fewer}"
    shorter = _context(request, fits) if not fewer else 0
    if shorter:
        yield f"context {shorter} and concurrency 1"
    larger = sorted((gpu(name) for name in gpu_names() if name != HOST), key=lambda one: one.memory_gib)
    for one in larger:
        if one.memory_gib > card.memory_gib and fits(on=one):
            yield one.name
            break


def _smaller_schemes(model: Model, request: Request, card: Gpu, scheme: Scheme) -> list[Scheme]:
    if model.shape.quantized_by:
        return []
    profile = request.profile
    smaller = (
        other
        for other in all_schemes()
        if other.weight_bits < scheme.weight_bits and profile.serves(other) and card.runs(other)
    )
    return sorted(smaller, key=lambda other: -other.weight_bits)


def _concurrency(request: Request, fits: Callable[[Request], bool]) -> int:
    """The most requests at once, fewer than asked, with which it fits; 0 when not even one does."""
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


def _context(request: Request, fits: Callable[[Request], bool]) -> int:
    context = request.context
    while (context := context // 2) >= SHORTEST_CONTEXT_TOKENS:
        if fits(request.model_copy(update={"context": context, "concurrency": 1})):
            return context
    return 0
