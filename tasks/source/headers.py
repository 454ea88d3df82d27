"""Read safetensors headers and check them against their file.

The format (huggingface.co/docs/safetensors): 8 bytes with the header's length, the header as JSON, then the tensors'
bytes without gaps.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from weighbridge.documents import parse_json
from weighbridge.errors import DocumentInvalid, SourceDamaged

MAX_HEADER_BYTES = 32_000_000
"""The format allows 100 MB, whose parsing takes gigabytes. The largest known header, of 60,000 tensors, has 8 MB, and
huggingface_hub reads 25 MB."""
MAX_NAME = 1000
MAX_SIDES = 16
MAX_SIDE = 2**48
MAX_OFFSET = 2**60
BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


class Tensor(BaseModel):
    """One tensor of a model."""

    model_config = ConfigDict(frozen=True)

    name: str
    shape: tuple[int, ...]
    dtype: str
    """Safetensors' name: BF16, F32, …"""

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of its values in the file."""
        return (self.elements * BITS[self.dtype] + 7) // 8


class Placed(NamedTuple):
    """A tensor and the place of its bytes."""

    begin: int
    """First byte, from the start of the file."""
    end: int
    tensor: Tensor


def read_header(path: Path) -> tuple[Tensor, ...]:
    """Read the tensors of a safetensors file, in file order.

    Raises:
        SourceDamaged: the header does not describe this file.
    """
    header, size = _header_of(path)
    return tuple(placed.tensor for placed in parse_header(path.name, header, size))


def read_placed(path: Path) -> list[Placed]:
    """Read the tensors of a safetensors file with the places that its header claims, in that order.

    Raises:
        SourceDamaged: the header is invalid.
    """
    return _parsed(path.name, _header_of(path)[0])


def _header_of(path: Path) -> tuple[bytes, int]:
    """A file's header and its size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return file.read(header_length(path.name, file.read(8), size)), size
    except OSError as error:
        raise damaged(path, f"it cannot be read ({error.strerror})") from None


def header_length(name: str, first_bytes: bytes, size: int) -> int:
    """Length of a file's header, from its first eight bytes.

    Raises:
        SourceDamaged: it is longer than the file or than any real one.
    """
    length = int.from_bytes(first_bytes, "little")
    if len(first_bytes) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
        raise damaged(name, f"its header claims {length} bytes of a file of {size}")
    return length


def parse_header(name: str, header: bytes, size: int) -> list[Placed]:
    """Parse a header and check it against its file's size.

    Raises:
        SourceDamaged: the header does not describe this file.
    """
    placed = _parsed(name, header)
    position = 8 + len(header)
    for begin, end, tensor in placed:
        if begin != position or end - begin != tensor.size_bytes:
            raise damaged(name, f"tensor {tensor.name[:200]} is not where its header says")
        position = end
    if position != size:
        raise damaged(name, f"header and tensors take {position} bytes and the file has {size}")
    return placed


def _parsed(name: str, header: bytes) -> list[Placed]:
    if not header.startswith(b"{"):
        raise damaged(name, "its header is invalid: it does not begin with {")
    try:
        # Its own entries are three levels deep; anything may be in the metadata, which is text by the format.
        entries = parse_json(header, name, MAX_HEADER_BYTES, max_depth=8)
        entries.pop("__metadata__", None)
        placed = [_placed(title, entry, 8 + len(header)) for title, entry in entries.items()]
    except DocumentInvalid as error:
        raise damaged(name, f"its header is invalid: {error.what.removesuffix('.')[:200]}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(name, f"its header is invalid: {str(error).splitlines()[0][:200]}") from None
    return sorted(placed, key=lambda found: found[:2])


def damaged(file: Path | str, why: str) -> SourceDamaged:
    """The error for an unusable file."""
    name = file if isinstance(file, str) else file.name
    return SourceDamaged(f"{name} is damaged: {why}.", "Try again; if the error persists, tell its publisher.")


def _placed(name: str, entry: dict[str, Any], start: int) -> Placed:
    begin, end = entry["data_offsets"]
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end < MAX_OFFSET:
        raise ValueError("offsets must be integers in order, none negative or absurd")
    if len(name) > MAX_NAME:
        raise ValueError(f"a name of {len(name)} characters")
    return Placed(start + begin, start + end, Tensor(name=name, **_shape(entry)))


def _shape(entry: dict[str, Any]) -> dict[str, Any]:
    if entry["dtype"] not in BITS:
        raise ValueError(f"unknown dtype {str(entry['dtype'])[:40]}")
    shape = entry["shape"]
    if not isinstance(shape, list) or any(type(side) is not int or not 0 <= side < MAX_SIDE for side in shape):
        raise ValueError("a shape must be a list of integers, none negative or absurd")
    if len(shape) > MAX_SIDES:
        raise ValueError(f"a shape of {len(shape)} sides")
    return {"shape": tuple(shape), "dtype": entry["dtype"]}
