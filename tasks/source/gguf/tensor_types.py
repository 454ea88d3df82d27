"""The ggml types that Weighbridge writes, and the layout of a block of each.

Source: llama.cpp, ggml/src/ggml-common.h (blocks) and ggml/include/ggml.h (numbers), October 2026.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorType:
    """One type of tensor values."""

    name: str
    """ggml's name."""
    number: int
    """In `enum ggml_type`, and in files."""
    values: int
    """Values of a block; a row is a whole number of blocks."""
    block_bytes: int
    scales: tuple[int, ...] = ()
    """Byte offsets of a block's float16 scales; empty if the values are floats."""
    reach: int = 1
    """Largest value of a block divided by its scale; a block below `reach` times the smallest float16 becomes zero."""

    def size_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor; the last side is the row."""
        return math.prod(shape[:-1]) * self.row_bytes(shape[-1])

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row."""
        return columns // self.values * self.block_bytes

    @property
    def is_quantized(self) -> bool:
        """Whether values share scales."""
        return bool(self.scales)


TENSOR_TYPES = {
    kind.name: kind
    for kind in (
        TensorType("f32", 0, 1, 4),
        TensorType("f16", 1, 1, 2),
        TensorType("q5_0", 6, 32, 22, scales=(0,), reach=16),
        TensorType("q5_1", 7, 32, 24, scales=(0, 2), reach=31),
        TensorType("q8_0", 8, 32, 34, scales=(0,), reach=127),
        # A block of 256 has scales within it, of 6 bits (K types 4 and 5) or 8 bits (type 6), under the one float16.
        TensorType("q4_K", 12, 256, 144, scales=(0, 2), reach=63 * 15),
        TensorType("q5_K", 13, 256, 176, scales=(0, 2), reach=63 * 31),
        TensorType("q6_K", 14, 256, 210, scales=(208,), reach=128 * 32),
        TensorType("bf16", 30, 1, 2),
    )
}
BY_NUMBER = {kind.number: kind for kind in TENSOR_TYPES.values()}
OF_SAFETENSORS = {"F32": TENSOR_TYPES["f32"], "F16": TENSOR_TYPES["f16"], "BF16": TENSOR_TYPES["bf16"]}
"""The types of a release, by safetensors' name."""
