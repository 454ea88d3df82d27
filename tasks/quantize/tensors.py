"""Read safetensors files without torch: headers, tensor bytes, and checks for NaN and infinities.

Headers are parsed by the safetensors format (8 bytes of length, JSON, data). Values are checked in blocks through a
memory map, so that memory does not grow with the model.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.source.headers import BITS, read_placed
from tasks.source.published.tokenizer import MAX_TOKENIZER_BYTES, read_index
from weighbridge.documents import read_bytes
from weighbridge.errors import DocumentInvalid, QuantizationFailed, SourceDamaged, SourceRefused

if TYPE_CHECKING:
    import numpy as np

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BLOCK_VALUES = 4 * 2**20

# Mask of the exponent bits: all set means infinite or NaN.
_EXPONENT = {"BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00), "F32": ("<u4", 0x7F800000)}
FLOATS = tuple(_EXPONENT)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, from its header."""

    name: str
    dtype: str
    """Safetensors' name: BF16, F16, F32, I8, I32, …"""
    shape: tuple[int, ...]
    file: Path
    start: int
    """Offset of the first byte in the file."""
    size_bytes: int


def item_bytes(dtype: str) -> int:
    """Bytes of one value of a type."""
    return BITS[dtype] // 8


def data_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor's values."""
    return (math.prod(shape) * BITS[dtype] + 7) // 8


def header_bytes(name: str, dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor's entry in a file's header, approximately: offsets vary in their digits."""
    line = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [10**8, 10**8]}}, separators=(",", ":"))
    return len(line) - 1


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files with a model's weights, sorted; other copies in the folder are ignored.

    Raises:
        QuantizationFailed: there is none, or an indexed file is missing.
    """
    index = folder / INDEX
    if index.is_file():
        files = [folder / name for name in sorted(set(_shards(index).values()))]
    elif (folder / SINGLE).is_file():
        files = [folder / SINGLE]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise QuantizationFailed(
            "The release has no safetensors weights.",
            "Choose a release in safetensors; other formats can execute code when loaded and are not read.",
            where=str(folder),
        )
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise _broken(folder / missing[0], "is named by the index and is missing")
    return files


def read_tensors(folder: Path) -> list[StoredTensor]:
    """Read all tensors of a model from its files' headers.

    Raises:
        QuantizationFailed: a file is missing, truncated or not a safetensors file; it is named.
    """
    return [tensor for file in weight_files(folder) for tensor in _header(file)]


def require_indexed(folder: Path, tensors: Iterable[StoredTensor]) -> None:
    """Check that each tensor that the index names is in the file that it names.

    Raises:
        QuantizationFailed: one is not; it is named.
    """
    if not (folder / INDEX).is_file():
        return
    held = {(tensor.name, tensor.file.name) for tensor in tensors}
    absent = sorted(name for name, file in _shards(folder / INDEX).items() if (name, file) not in held)
    if absent:
        raise _broken(folder / INDEX, f"names {absent[0]}, which is not in the file that it says")


def _shards(index: Path) -> dict[str, str]:
    try:
        return read_index(read_bytes(index, MAX_TOKENIZER_BYTES), INDEX)
    except (DocumentInvalid, SourceRefused) as error:
        raise _broken(index, f"is no index of shards ({error.what.removesuffix('.')})") from None


def _header(file: Path) -> list[StoredTensor]:
    try:
        placed = read_placed(file)
    except SourceDamaged as error:
        why = error.what.removeprefix(f"{file.name} is damaged: ").removesuffix(".")
        raise _broken(file, f"is truncated or not a safetensors file: {why}") from None
    size, promised = file.stat().st_size, max((found.end for found in placed), default=0)
    if size < promised:
        raise _broken(file, f"is truncated: {size:,} of {promised:,} bytes")
    return [
        StoredTensor(
            found.tensor.name, found.tensor.dtype, found.tensor.shape, file, found.begin, found.end - found.begin
        )
        for found in placed
    ]


def first_repeated(tensors: Iterable[StoredTensor]) -> StoredTensor | None:
    """The first tensor with the name of an earlier one, or None."""
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            return tensor
        names.add(tensor.name)
    return None


def is_finite(tensor: StoredTensor) -> bool:
    """Whether a tensor has no NaN or infinity; types other than BF16, F16 and F32 always have none."""
    if tensor.dtype not in _EXPONENT:
        return True
    bits = _bits(tensor)
    blocks = (bits[first : first + BLOCK_VALUES] for first in range(0, bits.size, BLOCK_VALUES))
    return all(finite(block, tensor.dtype) for block in blocks)


def finite(values: bytes | np.ndarray, dtype: str) -> bool:
    """Whether values in memory, as bytes or as unsigned integers, have no NaN or infinity."""
    import numpy as np

    if dtype not in _EXPONENT:
        return True
    kind, exponent = _EXPONENT[dtype]
    bits = np.frombuffer(values, kind) if isinstance(values, bytes) else values
    return not ((bits & exponent) == exponent).any()


def not_finite_error(tensor: StoredTensor) -> QuantizationFailed:
    """The error for a tensor with NaN or infinity."""
    return QuantizationFailed(
        f"{tensor.name} holds a value that is infinite or not a number.",
        "The release is broken as published: keep the previous one, and tell its publisher.",
        where=tensor.file.name,
    )


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file for `os.pread`, which several threads may call."""
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def read_part(file: int, tensor: StoredTensor, offset: int, count: int) -> bytes:
    """Read bytes of a tensor; without a memory map, whose pages would count as this process's memory.

    Raises:
        QuantizationFailed: the file is truncated.
    """
    data = os.pread(file, count, tensor.start + offset)
    if len(data) != count:
        raise QuantizationFailed(
            f"{tensor.file.name} ended while it was read: {tensor.name} is incomplete.",
            "Download the release again: `weighbridge release LINE --fresh`.",
            where=str(tensor.file),
        )
    return data


def has_zero(tensor: StoredTensor) -> bool:
    """Whether any value of a BF16, F16 or F32 tensor is zero."""
    bits = _bits(tensor)
    # Ignore the sign: doubling an unsigned integer drops its highest bit.
    return bool((bits * bits.dtype.type(2) == 0).any())


def _bits(tensor: StoredTensor) -> np.ndarray:
    import numpy as np

    kind = np.dtype(_EXPONENT[tensor.dtype][0])
    count = tensor.size_bytes // kind.itemsize
    if not count:
        return np.empty(0, dtype=kind)
    return np.memmap(tensor.file, dtype=kind, mode="r", offset=tensor.start, shape=(count,))


def _broken(file: Path, what: str) -> QuantizationFailed:
    return QuantizationFailed(
        f"{file.name} {what}.", "Download the release again: `weighbridge release LINE --fresh`.", where=str(file)
    )
