"""How compressed-tensors lays a quantized layer out: what a plan may expect and a check must find.

One entry a format; the plan adds up the sizes and the coverage check compares each tensor.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

WORD_BITS = 32


class Expected(BaseModel):
    """One tensor that must stand in the written files."""

    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str
    shape: tuple[int, ...]


def expected_tensors(
    layout: str, layer: str, dtype: str, shape: tuple[int, int], *, weight_bits: int, group_size: int | None
) -> tuple[Expected, ...]:
    """What one layer turns into.

    Args:
        layout: the format's name in `config.json`.
        layer: name without `.weight`.
        dtype: of the source's weight; scales keep it.
        shape: (output rows, input columns) of the source's weight.
        weight_bits: of a quantized weight.
        group_size: input columns that share a scale; None for the whole row.

    Returns:
        The weight first, then what belongs to it.
    """
    return _LAYOUTS[layout](layer, dtype, shape, weight_bits, group_size)


def _scale(layer: str, dtype: str, shape: tuple[int, int], group_size: int | None) -> Expected:
    rows, columns = shape
    return Expected(name=f"{layer}.weight_scale", dtype=dtype, shape=(rows, columns // (group_size or columns)))


def _int_quantized(
    layer: str, dtype: str, shape: tuple[int, int], weight_bits: int, group_size: int | None
) -> tuple[Expected, ...]:
    """A byte for each weight."""
    return Expected(name=f"{layer}.weight", dtype="I8", shape=shape), _scale(layer, dtype, shape, group_size)


def _pack_quantized(
    layer: str, dtype: str, shape: tuple[int, int], weight_bits: int, group_size: int | None
) -> tuple[Expected, ...]:
    """Several weights in each 32-bit word, along the input; the last word of a row may be part empty."""
    rows, columns = shape
    words = -(-columns // (WORD_BITS // weight_bits))
    return (
        Expected(name=f"{layer}.weight_packed", dtype="I32", shape=(rows, words)),
        _scale(layer, dtype, shape, group_size),
        Expected(name=f"{layer}.weight_shape", dtype="I64", shape=(2,)),
    )


_LAYOUTS: dict[str, Callable[[str, str, tuple[int, int], int, int | None], tuple[Expected, ...]]] = {
    "int-quantized": _int_quantized,
    "pack-quantized": _pack_quantized,
}
