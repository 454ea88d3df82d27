"""compressed-tensors' file layouts: the tensors of a quantized layer, by format.

The plan adds up their sizes, the coverage check compares them with the files, and the data-free method writes headers
from them before the first weight is read.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

WORD_BITS = 32
BLOCK_VALUES = 2**17
"""Weights rounded at once: as float32, with intermediate results, they fit a core's second-level cache."""


class ExpectedTensor(BaseModel):
    """One tensor that the written files must contain."""

    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str
    shape: tuple[int, ...]


class Layout(BaseModel):
    """The settings that, with a layer's shape, decide the shapes of its quantized tensors."""

    model_config = ConfigDict(frozen=True)

    format: str
    """As named in `config.json`."""
    weight_bits: int
    group_size: int | None = None
    """Input columns that share a scale; None for the whole row."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale, in place of groups."""
    symmetric: bool = True
    """False: a zero point beside each scale."""

    def expected(self, layer: str, dtype: str, shape: tuple[int, int]) -> tuple[ExpectedTensor, ...]:
        """The quantized tensors of one layer, the weight first.

        Args:
            layer: name without `.weight`.
            dtype: of the source's weight; scales keep it.
            shape: (output rows, input columns) of the source's weight.
        """
        return _LAYOUTS[self.format](self, layer, dtype, shape)

    @property
    def known(self) -> bool:
        """Whether this format's tensors are known; a publisher may use another format."""
        return self.format in _LAYOUTS

    def scales(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Shape of a layer's scales."""
        rows, columns = shape
        if self.block:
            return -(-rows // self.block[0]), -(-columns // self.block[1])
        return rows, columns // (self.group_size or columns)

    @property
    def row_unit(self) -> int:
        """Rows that must be rounded together: those of a block, or as many as fill a word with zero points."""
        if self.block:
            return self.block[0]
        return 1 if self.symmetric else WORD_BITS

    def rows_at_once(self, columns: int) -> int:
        """Rows to round at once: a multiple of `row_unit` that fits the cache."""
        return max(1, BLOCK_VALUES // columns // self.row_unit) * self.row_unit


def words(values: int, bits: int) -> int:
    """Number of 32-bit words for packed values; the last word may be partly unused."""
    return -(-values * bits // WORD_BITS)


def _scale(layout: Layout, layer: str, dtype: str, shape: tuple[int, int]) -> ExpectedTensor:
    return ExpectedTensor(name=f"{layer}.weight_scale", dtype=dtype, shape=layout.scales(shape))


def _byte_each(number: str) -> Callable[[Layout, str, str, tuple[int, int]], tuple[ExpectedTensor, ...]]:
    def expected(layout: Layout, layer: str, dtype: str, shape: tuple[int, int]) -> tuple[ExpectedTensor, ...]:
        weight = ExpectedTensor(name=f"{layer}.weight", dtype=number, shape=shape)
        return weight, _scale(layout, layer, dtype, shape)

    return expected


def _pack_quantized(layout: Layout, layer: str, dtype: str, shape: tuple[int, int]) -> tuple[ExpectedTensor, ...]:
    """Weights are packed along the input, zero points along the output."""
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
