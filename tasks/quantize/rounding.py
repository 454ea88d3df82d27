"""Round weights to nearest with compressed-tensors' arithmetic, bit by bit, on small blocks of rows.

compressed-tensors computes in the weights' own type: for a bfloat16 release, each operation's result is rounded to
bfloat16. Float32 followed by that rounding gives the same bits. Numpy does it without importing torch, transformers
and their dependencies (15 CPU-seconds and 0.5 GiB before the first weight is read). Tests compare every function here
with compressed-tensors' `calculate_qparams`, `quantize` and `pack_to_int32`, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.quantize.plan.layouts import Layout, words

FP8_MAX = 448.0
"""Largest E4M3 number (OCP 8-bit Floating Point Specification 1.0, table 1)."""
# E4M3 has 3 mantissa bits and exponent bias 7; float32 has 23 and 127.
_E4M3_DROPPED_BITS, _E4M3_REBIAS, _E4M3_SMALLEST_NORMAL = 20, 120 << 3, 2.0**-6
_E4M3_SUBNORMAL_STEPS = 512.0

_BITS: dict[str, np.dtype[Any]] = {"BF16": np.dtype("<u2"), "F16": np.dtype("<u2"), "F32": np.dtype("<u4")}
_INFINITY = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}
# A zero scale is replaced by the type's epsilon, as in compressed-tensors.
_EPSILON = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23}


@dataclass(frozen=True)
class Rounded:
    """A rounded block of rows."""

    weight: np.ndarray
    """As stored: int8, FP8 bytes, or packed words."""
    scale: np.ndarray
    """Bit patterns of the release's type."""
    zero_point: np.ndarray | None
    """Packed words along the rows; None for symmetric schemes."""


class NotFinite(ValueError):
    """The block holds an infinite value or NaN."""


def bits_of(dtype: str) -> np.dtype[Any]:
    """The unsigned integer type as wide as a safetensors type's values."""
    return _BITS[dtype]


def round_rows(bits: np.ndarray, dtype: str, layout: Layout, *, is_float: bool = False) -> Rounded:
    """Round rows of a weight.

    Args:
        bits: (rows, columns) of the release's values as unsigned integers; a multiple of the layout's `row_unit` rows,
            except at the weight's end.
        dtype: of the values: BF16, F16 or F32.
        layout: which weights share a scale, and the bits of a weight.
        is_float: round to FP8 rather than to integers.

    Raises:
        NotFinite: a value is infinite or NaN.
    """
    rows, columns = bits.shape
    grouped = _grouped(bits, layout)
    # Values along the last axis, or along both axes of a block, share a scale.
    axes = (1, 3) if layout.block else (2,)
    if layout.symmetric:
        scale, zero = _symmetric(grouped, dtype, axes, FP8_MAX if is_float else (2**layout.weight_bits - 1) / 2), None
    else:
        scale, zero = _asymmetric(grouped, dtype, axes, layout.weight_bits)
    steps = widen(grouped, dtype)
    with np.errstate(all="ignore"):
        np.divide(steps, scale, out=steps)
        round_to(steps, dtype)
        if zero is not None:
            np.add(steps, zero, out=steps)
            round_to(steps, dtype)
    codes = _e4m3(steps) if is_float else _integers(steps, layout.weight_bits)
    codes = codes.reshape(rows, columns)
    packed = layout.format == "pack-quantized"
    shape = (-1, layout.scales((rows, columns))[1])
    return Rounded(
        weight=pack(codes, layout.weight_bits) if packed else codes,
        scale=narrow(scale, dtype).reshape(shape),
        zero_point=None
        if zero is None
        else np.ascontiguousarray(pack(zero.reshape(shape).astype(np.int8).T, layout.weight_bits).T),
    )


def _grouped(bits: np.ndarray, layout: Layout) -> np.ndarray:
    rows, columns = bits.shape
    if layout.block:
        height, width = layout.block
        return bits.reshape(rows // height, height, columns // width, width)
    return bits.reshape(rows, -1, layout.group_size or columns)


def _symmetric(bits: np.ndarray, dtype: str, axes: tuple[int, ...], half_range: float) -> np.ndarray:
    """Scales by the largest magnitude, found in the bit patterns, whose order is that of the values."""
    sign = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    largest = (bits & ~sign).max(axis=axes, keepdims=True)
    if (largest >= _INFINITY[dtype]).any():
        raise NotFinite
    scale = widen(largest, dtype)
    scale /= np.float32(half_range)
    return _usable(scale, dtype)


def _asymmetric(bits: np.ndarray, dtype: str, axes: tuple[int, ...], weight_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points for the range from smallest to largest value, zero included."""
    values = widen(bits, dtype)
    low = np.minimum(values.min(axis=axes, keepdims=True), np.float32(0))
    high = np.maximum(values.max(axis=axes, keepdims=True), np.float32(0))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise NotFinite
    lowest, highest = -(2 ** (weight_bits - 1)), 2 ** (weight_bits - 1) - 1
    spread = high - low
    round_to(spread, dtype)
    unbounded = spread / np.float32(highest - lowest)
    round_to(unbounded, dtype)
    with np.errstate(all="ignore"):
        offset = low / unbounded
        round_to(offset, dtype)
        zero = np.float32(lowest) - offset
    round_to(zero, dtype)
    # If all values are zero, so is the scale; torch converts 0 / 0 to the integer 0.
    zero = np.rint(np.clip(zero, lowest, highest))
    zero[np.isnan(zero)] = 0
    return _usable(unbounded, dtype), zero


def _usable(scale: np.ndarray, dtype: str) -> np.ndarray:
    round_to(scale, dtype)
    scale[scale == 0] = _EPSILON[dtype]
    return scale


def _integers(steps: np.ndarray, bits: int) -> np.ndarray:
    np.clip(steps, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, out=steps)
    np.rint(steps, out=steps)
    return steps.astype(np.int8)


def _e4m3(steps: np.ndarray) -> np.ndarray:
    """The nearest FP8 E4M3 values as bytes, ties to even."""
    np.clip(steps, -FP8_MAX, FP8_MAX, out=steps)
    pattern = steps.view("<u4")
    sign = (pattern >> 24).astype(np.uint8)
    sign &= np.uint8(0x80)
    np.abs(steps, out=steps)
    small = steps < _E4M3_SMALLEST_NORMAL
    subnormal = np.rint(steps[small] * np.float32(_E4M3_SUBNORMAL_STEPS)).astype(np.uint8)
    _round_bits(pattern, _E4M3_DROPPED_BITS)
    pattern >>= _E4M3_DROPPED_BITS
    pattern -= np.uint32(_E4M3_REBIAS)
    code = pattern.astype(np.uint8)
    code[small] = subnormal
    code |= sign
    return code


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack signed values of 4 or 8 bits into words, the first in the lowest bits, each offset to be unsigned.

    Args:
        codes: int8, (rows, columns).

    Returns:
        int32, (rows, words); unused bits of a row's last word are zero.
    """
    rows, columns = codes.shape
    filled = np.zeros((rows, words(columns, bits) * (32 // bits)), np.uint8)
    np.add(codes.astype(np.uint8), np.uint8(1 << (bits - 1)), out=filled[:, :columns])
    if bits == 4:
        filled = filled[:, 0::2] | (filled[:, 1::2] << np.uint8(4))
    return np.ascontiguousarray(filled).view("<i4")


def widen(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The values as float32, in a new array."""
    if dtype == "BF16":
        wide = bits.astype("<u4")
        wide <<= np.uint32(16)
        return wide.view("<f4")
    return bits.view("<f2").astype("<f4") if dtype == "F16" else bits.view("<f4").copy()


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """The bit patterns of float32 values that the type represents exactly."""
    if dtype == "BF16":
        return (values.view("<u4") >> np.uint32(16)).astype("<u2")
    return values.astype("<f2").view("<u2") if dtype == "F16" else values.view("<u4")


def round_to(values: np.ndarray, dtype: str) -> None:
    """Round float32 values in place to the nearest values of a type, ties to even."""
    if dtype == "BF16":
        pattern = values.view("<u4")
        _round_bits(pattern, 16)
        pattern &= np.uint32(0xFFFF0000)
    elif dtype == "F16":
        values[...] = values.astype("<f2")


def _round_bits(pattern: np.ndarray, dropped: int) -> None:
    """Add to float32 bit patterns so that dropping the lowest bits rounds to nearest even; values must be finite."""
    odd = pattern >> np.uint32(dropped)
    odd &= np.uint32(1)
    odd += np.uint32((1 << (dropped - 1)) - 1)
    pattern += odd
