"""Damage done to a GGUF in place: what a loader, a converter or a kernel gone wrong would compute.

Each takes the file of a copied artifact. Q8_0 is written in blocks of 34 bytes, of which the first two are the scale.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Q8_0_BLOCK_BYTES = 34
EXCHANGED_ENTRIES = 400


def scaled_layer(file: Path) -> None:
    """The feed-forward output of the middle layer at half its scale."""
    reader = _open(file)
    middle = max(int(one.name.split(".")[1]) for one in reader.tensors if one.name.startswith("blk.")) // 2
    scales = _scales(_tensor(reader, f"blk.{middle}.ffn_down.weight"))
    scales[:] = scales / 2


def shuffled_groups(file: Path) -> None:
    """Every block of the attention outputs gets the scale of another one of its row, as by a kernel's wrong stride."""
    reader = _open(file)
    for one in reader.tensors:
        if one.name.endswith("attn_output.weight"):
            scales = _scales(one)
            scales[:] = scales[:, ::-1].copy()


def coarse_numbers(file: Path) -> None:
    """The feed-forward's eight-bit weights keep three of their bits, as by a kernel of the wrong number format."""
    for one in _open(file).tensors:
        if "ffn_" in one.name and one.tensor_type.name == "Q8_0":
            codes = one.data.reshape(one.data.shape[0], -1, Q8_0_BLOCK_BYTES)[:, :, 2:].view(np.int8)
            codes[:] = np.clip(np.round(codes / 32.0) * 32, -127, 127).astype(np.int8)


def other_rope_base(file: Path) -> None:
    """Positions rotated with a tenth of the base that the model was trained with."""
    field = _open(file).fields["llama.rope.freq_base"]
    field.parts[field.data[0]][:] = field.parts[field.data[0]] / 10


def other_tokenizer(file: Path) -> None:
    """Entries of the vocabulary exchanged in pairs of equal length, as by a careless merge of tokenizers."""
    field = _open(file).fields["tokenizer.ggml.tokens"]
    by_length: dict[int, list[Any]] = {}
    for place in field.data[300:]:
        by_length.setdefault(len(field.parts[place]), []).append(field.parts[place])
    left = EXCHANGED_ENTRIES
    for same in by_length.values():
        for one, other in zip(same[:left:2], same[1:left:2]):
            kept = one.copy()
            one[:], other[:] = other, kept
            left -= 2


FAULTS: dict[str, Callable[[Path], None]] = {
    "feed-forward of one layer × 0.5": scaled_layer,
    "attention's scales in the wrong order": shuffled_groups,
    "feed-forward in 3 bits of 8": coarse_numbers,
    "RoPE base / 10": other_rope_base,
    "vocabulary entries exchanged": other_tokenizer,
}


def _open(file: Path) -> Any:
    import gguf

    return gguf.GGUFReader(file, "r+")


def _tensor(reader: Any, name: str) -> Any:
    return next(one for one in reader.tensors if one.name == name)


def _scales(tensor: Any) -> Any:
    """A tensor's block scales, (rows, blocks), to be written to."""
    return tensor.data.reshape(tensor.data.shape[0], -1, Q8_0_BLOCK_BYTES)[:, :, :2].view(np.float16)[:, :, 0]
