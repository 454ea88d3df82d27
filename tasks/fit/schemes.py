"""What a quantization scheme does to the bytes of a model: enough to plan, before anything is quantized.

One entry here adds one to the planner. How the numbers are found is the quantize room's.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from weighbridge.errors import SchemeUnknown


class SchemeSize(BaseModel):
    """The bytes of one scheme."""

    model_config = ConfigDict(frozen=True)

    name: str
    weight_bits: int | None
    """Of a quantized weight; None leaves everything as published."""
    scale_bytes: int = 2
    """Of each scale: the source's dtype, bfloat16."""
    group_sizes: tuple[int, ...] = ()
    """Inputs that share a scale; the first that divides every layer's width. None: one scale an output row."""
    packed: bool = False
    """Whether weights lie several to a 32-bit word, with the shape (two int64) beside them."""


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        SchemeSize(name="bf16", weight_bits=None),
        SchemeSize(name="int8", weight_bits=8),
        SchemeSize(name="int8-w8a16", weight_bits=8, packed=True),
        SchemeSize(name="int4", weight_bits=4, group_sizes=(128, 64, 32), packed=True),
        SchemeSize(name="fp8", weight_bits=8),
    )
}


def scheme_names() -> tuple[str, ...]:
    """Schemes whose size is known."""
    return tuple(SCHEMES)


def scheme_size(name: str) -> SchemeSize:
    """The scheme of a name.

    Raises:
        SchemeUnknown: its size is not known.
    """
    if name not in SCHEMES:
        raise SchemeUnknown(
            f"There is no scheme called {name!r} to plan memory for; known schemes: {', '.join(SCHEMES)}.",
            "Name one of these in the line's `schemes`, or add its size to tasks/fit/schemes.py.",
        )
    return SCHEMES[name]
