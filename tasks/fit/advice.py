"""What would make a model fit: the cheapest changes to a line first, each tried before it is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tasks.fit.gpus import HOST, Gpu, gpu, gpu_names
from tasks.fit.schemes import SchemeSize, scheme_names, scheme_size
from weighbridge.line import Line

if TYPE_CHECKING:
    from tasks.fit.report import FitRow

TryRow = Callable[[Line, Gpu, SchemeSize], "FitRow"]

SHORTEST_CONTEXT_TOKENS = 512
"""Nobody is helped by a shorter one."""


def cheapest_changes(line: Line, try_row: TryRow) -> str:
    """One sentence of the changes that make something fit, cheapest first; empty when none does.

    Args:
        line: as it is.
        try_row: plans a scheme on a GPU for a changed line.
    """
    changes = [change for change in (_requests(line, try_row), _scheme(line, try_row), _gpu(line, try_row)) if change]
    text = ", or ".join(changes)
    return text[:1].upper() + text[1:]


def _rows(line: Line, try_row: TryRow) -> Iterator[FitRow]:
    for scheme in line.schemes:
        for name in line.target.gpus:
            yield try_row(line, gpu(name), scheme_size(scheme))


def _fits(line: Line, try_row: TryRow) -> bool:
    return any(row.verdict != "no" for row in _rows(line, try_row))


def _with_target(line: Line, **changes: int) -> Line:
    return line.model_copy(update={"target": line.target.model_copy(update=changes)})


def _requests(line: Line, try_row: TryRow) -> str:
    """Fewer requests at once; if not even one fits, a shorter context."""
    concurrency, context = line.target.concurrency, line.target.context
    while concurrency > 1:
        concurrency = min(concurrency - 1, concurrency * 3 // 4)
        if _fits(_with_target(line, concurrency=concurrency), try_row):
            return f"set target.concurrency to {concurrency}"
    while (context := context // 2) >= SHORTEST_CONTEXT_TOKENS:
        if _fits(_with_target(line, concurrency=1, context=context), try_row):
            return f"set target.context to {context} and target.concurrency to 1"
    return ""


def _scheme(line: Line, try_row: TryRow) -> str:
    for name in scheme_names():
        if name not in line.schemes and _fits(line.model_copy(update={"schemes": [name]}), try_row):
            return f"add {name} to schemes"
    return ""


def _gpu(line: Line, try_row: TryRow) -> str:
    """The smallest known GPU that is not the line's."""
    others = sorted((gpu(name) for name in gpu_names() if name != HOST), key=lambda card: card.memory_gib)
    for card in others:
        changed = line.model_copy(update={"target": line.target.model_copy(update={"gpus": [card.name]})})
        if card.name not in line.target.gpus and _fits(changed, try_row):
            return f"name {card.name} in target.gpus"
    return ""
