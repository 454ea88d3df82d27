"""All rows of a model: each GPU, scheme and number of GPUs that was asked for."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.fit.advice import cheapest_change
from tasks.fit.hardware.gpus import HOST, Gpu, gpu, gpu_names
from tasks.fit.memory.kv import cache_of, check_against_tensors
from tasks.fit.memory.terms import Model
from tasks.fit.memory.weights import KEYS_VALUES, Weights
from tasks.fit.model.shape import ModelShape
from tasks.fit.plan import plan_row
from tasks.fit.request import Request
from tasks.fit.rows import FitRow
from tasks.schemes import Scheme, all_schemes
from tasks.schemes import scheme as find_scheme

COUNTS = (2, 4, 8)
"""GPUs of a node that are tried where one does not suffice."""


def model_of(shape: ModelShape) -> Model:
    """What all rows of a model share.

    Raises:
        ArchitectureUnknown: what its layers cache is not known, or its tensors say otherwise.
    """
    cache = cache_of(shape.config)
    if not shape.quantized_by:
        rows: dict[int, int] = {}
        for piece in shape.pieces:
            if piece.layer is not None and KEYS_VALUES.search(piece.name) and piece.name.endswith(".weight"):
                rows[piece.layer] = rows.get(piece.layer, 0) + piece.shape[0]
        check_against_tensors(shape.config, cache, list(rows.values()))
    return Model(shape, Weights(shape), cache)


def catalogue(
    shape: ModelShape,
    request: Request,
    *,
    gpus: Iterable[str] = (),
    schemes: Iterable[str] = (),
    tp: int | None = None,
    pp: int | None = None,
) -> tuple[FitRow, ...]:
    """Plan a model on GPUs, under schemes.

    Args:
        shape: from `shape_of`.
        request: what must be held, and by which engine.
        gpus: names; all of the catalogue by default, without this machine's own memory.
        schemes: names; by default all that the engine serves (of a quantized release: its own).
        tp, pp: as given; by default one GPU, and where that does not suffice also the smallest number of GPUs of
            a node that does.

    Raises:
        GpuUnknown, SchemeUnknown, FitOptionUnknown: a name that nobody knows.
        ArchitectureUnknown: what its layers cache is not known.
    """
    cards = [gpu(name) for name in gpus or [name for name in gpu_names() if name != HOST]]
    model = model_of(shape)
    chosen = [find_scheme(name) for name in schemes or _usual(model, request)]
    rows: list[FitRow] = []
    for card in cards:
        for scheme in chosen:
            rows += _rows(model, request, card, scheme, tp, pp)
    return tuple(rows)


def _usual(model: Model, request: Request) -> tuple[str, ...]:
    published = model.weights.published
    if published:
        return (published.name,)
    if model.shape.quantized_by:
        return ("bf16",)
    return tuple(scheme.name for scheme in all_schemes() if request.profile.serves(scheme))


def _rows(model: Model, request: Request, card: Gpu, scheme: Scheme, tp: int | None, pp: int | None) -> list[FitRow]:
    first = plan_row(model, request, card, scheme, tp or 1, pp or 1)
    rows = [first]
    if first.verdict == "no" and tp is None and pp is None and not card.is_host:
        more = (plan_row(model, request, card, scheme, count) for count in COUNTS)
        enough = next((row for row in more if row.verdict != "no"), None)
        rows += [enough] if enough else []
    return [
        row
        if row.verdict == "fits"
        else row.model_copy(update={"change": cheapest_change(model, request, card, scheme, row)})
        for row in rows
    ]
