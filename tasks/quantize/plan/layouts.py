"""How compressed-tensors lays a quantized layer out: what a plan may expect and a check must find.

One entry a format; the plan adds up the sizes, the coverage check compares each tensor, and the data-free
method writes the files' headers from it before the first weight is read.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

WORD_BITS = 32
BLOCK_VALUES = 2**17
"""Weights that are rounded together: as float32 they and what is made of them stay in a core's second-level cache."""


class ExpectedTensor(BaseModel):
    """One tensor that must stand in the written files."""

    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str
    shape: tuple[int, ...]


class Layout(BaseModel):
    """What decides the shapes of a quantized layer's tensors, beside the layer itself."""

    model_config = ConfigDict(frozen=True)

    format: str
    """Its name in `config.json`."""
    weight_bits: int
    group_size: int | None = None
    """Input columns that share a scale; None for the whole row."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale, in place of groups."""
    symmetric: bool = True
    """False: a zero point beside each scale."""

    def expected(self, layer: str, dtype: str, shape: tuple[int, int]) -> tuple[ExpectedTensor, ...]:
        """What one layer turns into, the weight first, then what belongs to it.

        Args:
            layer: name without `.weight`.
            dtype: of the source's weight; scales keep it.
            shape: (output rows, input columns) of the source's weight.
        """
        return _LAYOUTS[self.format](self, layer, dtype, shape)

    @property
    def known(self) -> bool:
        """Whether its tensors can be told; a release by somebody else may have another format."""
        return self.format in _LAYOUTS

    def scales(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Shape of the scales of a layer."""
        rows, columns = shape
        if self.block:
            return -(-rows // self.block[0]), -(-columns // self.block[1])
        return rows, columns // (self.group_size or columns)

    @property
    def row_unit(self) -> int:
        """Rows that must be rounded together: a block's, or as many as fill words with zero points."""
        if self.block:
            return self.block[0]
        return 1 if self.symmetric else WORD_BITS

    def rows_at_once(self, columns: int) -> int:
        """Rows that are rounded together: as many as belong together, or the cache holds."""
        return max(1, BLOCK_VALUES // columns // self.row_unit) * self.row_unit


def words(values: int, bits: int) -> int:
    """32-bit words that so many values of so few bits are packed into, the last one perhaps part empty."""
    return -(-values * bits // WORD_BITS)


def _scale(layout: Layout, layer: str, dtype: str, shape: tuple[int, int]) -> ExpectedTensor:
    return ExpectedTensor(name=f"{layer}.weight_scale", dtype=dtype, shape=layout.scales(shape))


def _byte_each(number: str) -> Callable[[Layout, str, str, tuple[int, int]], tuple[ExpectedTensor, ...]]:
    def expected(layout: Layout, layer: str, dtype: str, shape: tuple[int, int]) -> tuple[ExpectedTensor, ...]:
        weight = ExpectedTensor(name=f"{layer}.weight", dtype=number, shape=shape)
        return weight, _scale(layout, layer, dtype, shape)

    return expected


def _pack_quantized(layout: Layout, layer: str, dtype: str, shape: tuple[int, int]) -> tuple[ExpectedTensor, ...]:
    """Several weights in each word, along the input; zero points likewise, but along the output."""
    rows, columns = shape
    parts = [
        ExpectedTensor(name=f"{layer}.weight_packed", dtype="I32", shape=(rows, words(columns, layout.weight_bits))),
        _scale(layout, layer, dtype, shape),
        ExpectedTensor(name=f"{layer}.weight_shape", dtype="I64", shape=(2,)),
    ]
    if not layout.symmetric:
        zero_points = (words(rows, layout.weight_bits), layout.scales(shape)[1])
        parts.append(ExpectedTensor(name=f"{layer}.weight_zero_point", dtype="I32", shape=zero_points))
    return tuple(parts)


_LAYOUTS: dict[str, Callable[[Layout, str, str, tuple[int, int]], tuple[ExpectedTensor, ...]]] = {
    "int-quantized": _byte_each("I8"),
    "float-quantized": _byte_each("F8_E4M3"),
    "pack-quantized": _pack_quantized,
}
