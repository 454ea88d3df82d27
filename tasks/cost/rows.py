"""The planner's rows to price, among them copies on more GPUs than they need.

If one GPU barely holds a model, its cache serves one request at a time; two GPUs serve many, and cost less per token.
"""

from __future__ import annotations

from collections.abc import Iterable

from tasks.fit.catalogue import COUNTS, catalogue, model_of
from tasks.fit.hardware.gpus import gpu
from tasks.fit.model.shape import ModelShape
from tasks.fit.plan import fit_row
from tasks.fit.request import FitRequest
from tasks.fit.rows import FitRow
from tasks.schemes import scheme as find_scheme


def rows_to_price(shape: ModelShape, request: FitRequest, schemes: Iterable[str] = ()) -> tuple[FitRow, ...]:
    """Fit a model on the whole catalogue, and also on 2, 4 and 8 GPUs for each copy.

    Raises:
        SchemeUnknown, ArchitectureUnknown: from the planner.
    """
    rows = catalogue(shape, request, schemes=schemes)
    model, planned = model_of(shape), {(row.gpu, row.scheme, row.count) for row in rows}
    more = (
        fit_row(model, request, gpu(name), find_scheme(scheme), count)
        for name, scheme in dict.fromkeys((row.gpu, row.scheme) for row in rows)
        for count in COUNTS
        if (name, scheme, count) not in planned
    )
    return (*rows, *(row for row in more if row.verdict != "no"))
