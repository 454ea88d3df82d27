"""ggml's quantizers, called through ctypes in the library that also serves: xllamacpp's.

The package has no Python interface for quantizing, but its library exports ggml's C interface (ggml/include/ggml.h). So
the same code rounds and reads the values, and it runs without the interpreter's lock. `libgguf` 0.2.2 gives identical
bytes but holds the lock: on 16 cores it takes 16 times as long.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from typing import TYPE_CHECKING

from tasks.source.gguf.tensor_types import TENSOR_TYPES, TensorType
from weighbridge.errors import QuantizationFailed

if TYPE_CHECKING:
    import numpy as np

_C_INT, _C_I64, _POINTER, _SIZE = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_size_t


def quantize_rows(rows: np.ndarray, kind: TensorType, out: np.ndarray) -> None:
    """Quantize float32 rows.

    Args:
        rows: (rows, columns), contiguous.
        kind: the target type; its blocks must divide the columns.
        out: receives the bytes, (rows, bytes of a row), contiguous.

    Raises:
        QuantizationFailed: the library is missing or of another version.
    """
    height, columns = rows.shape
    written = _library().ggml_quantize_chunk(kind.number, rows.ctypes.data, out.ctypes.data, 0, height, columns, None)
    if written != out.nbytes:
        raise _library_error(f"it wrote {written:,} bytes of {kind.name} instead of {out.nbytes:,}")


@cache
def _library() -> ctypes.CDLL:
    """Load the library and check its types: another number or size of a type would silently write garbage."""
    spec = importlib.util.find_spec("xllamacpp.xllamacpp")
    if spec is None or spec.origin is None:
        raise _library_error("it is not installed")
    library = ctypes.CDLL(spec.origin)
    try:
        library.ggml_type_name.argtypes, library.ggml_type_name.restype = [_C_INT], ctypes.c_char_p
        library.ggml_row_size.argtypes, library.ggml_row_size.restype = [_C_INT, _C_I64], _SIZE
        library.ggml_quantize_chunk.argtypes = [_C_INT, _POINTER, _POINTER, _C_I64, _C_I64, _C_I64, _POINTER]
        library.ggml_quantize_chunk.restype = _SIZE
    except AttributeError as missing:
        raise _library_error(f"its library lacks a required function ({missing})") from None
    for kind in TENSOR_TYPES.values():
        name = (library.ggml_type_name(kind.number) or b"").decode()
        size = library.ggml_row_size(kind.number, kind.values)
        if (name, size) != (kind.name, kind.block_bytes):
            raise _library_error(
                f"its type {kind.number} is {name} of {size} bytes, not {kind.name} of {kind.block_bytes}"
            )
    return library


def _library_error(what: str) -> QuantizationFailed:
    return QuantizationFailed(
        f"xllamacpp cannot quantize: {what}.",
        "Install the version that constraints.txt names: `pip install -c constraints.txt xllamacpp`.",
        where="xllamacpp",
    )
