"""Read a GGUF file's header and tensor bytes, with the `gguf` package."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.source.gguf.tensor_types import BY_NUMBER, TensorType
from weighbridge.errors import QuantizationFailed

if TYPE_CHECKING:
    from gguf import GGUFReader

GGUF_FILE = "model.gguf"
MAX_COUNT = 1_000_000
"""Tensors, and metadata values, of a file; the largest known ones have some thousand and 60."""
# Errors of gguf's reader for a truncated file or a wrong length.
_BROKEN = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error)


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a file."""

    name: str
    kind: TensorType
    shape: tuple[int, ...]
    """In safetensors' order, the row last."""
    start: int
    """Offset of its first byte in the file."""

    @property
    def size_bytes(self) -> int:
        """Of its values."""
        return self.kind.size_bytes(self.shape)

    @property
    def rows(self) -> int:
        """Rows, over all experts."""
        return self.size_bytes // self.kind.row_bytes(self.shape[-1])


@dataclass(frozen=True)
class GgufFile:
    """A file's header."""

    path: Path
    tensors: tuple[GgufTensor, ...]
    reader: GGUFReader = field(repr=False)

    def value(self, key: str) -> Any:
        """A metadata value; None if absent.

        Raises:
            QuantizationFailed: it is damaged.
        """
        found = self.reader.get_field(key)
        try:
            return None if found is None else found.contents()
        except _BROKEN as error:
            raise _broken(self.path, f"is damaged: {key} cannot be read ({type(error).__name__})") from None

    def length(self, key: str) -> int:
        """Length of a metadata list; 0 if absent."""
        found = self.reader.get_field(key)
        return 0 if found is None else len(found.data)


def read_gguf(path: Path) -> GgufFile:
    """Read a file's header.

    Raises:
        QuantizationFailed: it is missing, truncated, damaged or has a type that Weighbridge does not write.
    """
    if not path.is_file():
        raise _broken(path, "is missing")
    try:
        _require_real_counts(path)
        reader = _reader_class()(path)
        tensors = tuple(
            GgufTensor(
                tensor.name,
                BY_NUMBER[int(tensor.tensor_type)],
                tuple(int(side) for side in reversed(tensor.shape)),
                int(tensor.data_offset),
            )
            for tensor in reader.tensors
        )
    except _BROKEN as error:
        raise _broken(path, f"is truncated or damaged ({type(error).__name__}: {error})") from None
    for tensor in tensors:
        if not tensor.shape or min(tensor.shape) < 1 or tensor.shape[-1] % tensor.kind.values:
            raise _broken(path, f"is damaged: {tensor.name} has the shape {list(tensor.shape)}")
    end = max((tensor.start + tensor.size_bytes for tensor in tensors), default=0)
    if end > path.stat().st_size:
        raise _broken(path, f"is truncated: {path.stat().st_size:,} of {end:,} bytes")
    return GgufFile(path, tensors, reader)


@lru_cache(maxsize=1)
def _reader_class() -> type[GGUFReader]:
    # A function, because importing gguf and numpy takes a while.
    from gguf import GGUFReader

    class StrictReader(GGUFReader):
        """A reader for which the end of the file is an error: gguf's own reads a list of 2**62 values from nothing."""

        def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            found = super()._get(offset, dtype, count, override_order)
            if len(found) < int(count):
                raise ValueError(f"it ends before byte {int(offset):,} and what should follow")
            return found

    return StrictReader


def _require_real_counts(path: Path) -> None:
    """Refuse counts for which the `gguf` package would loop for years: magic, version, tensors, metadata values."""
    with path.open("rb") as file:
        magic, _, tensors, values = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or max(tensors, values) > MAX_COUNT:
        raise ValueError(f"it claims {tensors} tensors and {values} metadata values")


def read_rows(file: int, tensor: GgufTensor, first: int, count: int) -> bytes:
    """Read the bytes of some rows; without a memory map, whose pages would count as this process's memory.

    Raises:
        EOFError: the file ends early.
    """
    row = tensor.kind.row_bytes(tensor.shape[-1])
    data = os.pread(file, count * row, tensor.start + first * row)
    if len(data) != count * row:
        raise EOFError(f"{tensor.name} is incomplete")
    return data


def _broken(path: Path, what: str) -> QuantizationFailed:
    return QuantizationFailed(
        f"{path.name} {what}.", "Quantize the release again: `weighbridge release LINE --fresh`.", where=str(path)
    )
