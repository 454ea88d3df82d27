"""Convert a release's float types to float32."""

from __future__ import annotations

import numpy as np

from tasks.source.gguf.tensor_types import TensorType


def to_float32(data: bytes, kind: TensorType) -> np.ndarray:
    """Convert bytes to float32 values, exactly.

    Args:
        data: little-endian.
        kind: bf16, f16 or f32.
    """
    if kind.name == "bf16":
        # The upper half of a float32.
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, "<f2" if kind.name == "f16" else "<f4").astype("<f4")
