"""Read safetensors headers and check them against their file.

The format (huggingface.co/docs/safetensors): 8 bytes with the header's length, the header as JSON, then the tensors'
bytes without gaps. A header is at most 100 MB.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from weighbridge.errors import SourceDamaged

MAX_HEADER_BYTES = 100_000_000
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


def read_header(path: Path) -> tuple[Tensor, ...]:
    """Read the tensors of a safetensors file, in file order.

    Raises:
        SourceDamaged: the header does not describe this file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise damaged(path, f"its header claims {length} bytes of a file of {size}")
        header = file.read(length)
    if not header.startswith(b"{"):
        raise damaged(path, "its header is invalid: it does not begin with {")
    try:
        entries = json.loads(header, object_pairs_hook=_reject_duplicates)
        entries.pop("__metadata__", None)
        placed = sorted(
            ((*_offsets(entry), Tensor(name=name, **_shape(entry))) for name, entry in entries.items()),
            key=lambda placed_tensor: placed_tensor[:2],
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(path, f"its header is invalid: {str(error).splitlines()[0][:200]}") from None
    position = 0
    for begin, end, tensor in placed:
        if begin != position or end - begin != tensor.size_bytes:
            raise damaged(path, f"tensor {tensor.name} is not where its header says")
        position = end
    if position != size - 8 - length:
        raise damaged(path, f"its tensors take {position} bytes and the file has {size - 8 - length}")
    return tuple(tensor for _, _, tensor in placed)


def damaged(path: Path, why: str) -> SourceDamaged:
    """The error for an unusable file."""
    return SourceDamaged(f"{path.name} is damaged: {why}.", "Try again; if the error persists, tell its publisher.")


def _offsets(entry: dict[str, Any]) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    if type(begin) is not int or type(end) is not int:
        raise ValueError("offsets must be integers")
    return begin, end


def _shape(entry: dict[str, Any]) -> dict[str, Any]:
    if entry["dtype"] not in BITS:
        raise ValueError(f"unknown dtype {entry['dtype']}")
    if not isinstance(entry["shape"], list) or any(type(side) is not int or side < 0 for side in entry["shape"]):
        raise ValueError("a shape must be a list of integers, none negative")
    return {"shape": tuple(entry["shape"]), "dtype": entry["dtype"]}


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
