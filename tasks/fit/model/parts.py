"""The pieces that a model's weights consist of, and where each of them ends up."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from tasks.source.headers import BITS, Tensor

FLOATS = {"BF16", "F16", "F32"}
# What stays as published in every scheme: the head, embeddings, norms, the routers of experts, towers.
KEPT = re.compile(
    r"(^|\.)(lm_head|embed_out|output)$"
    r"|(^|\.)(\w*embed\w*|wte|wpe|embeddings\.\w+)$"
    r"|norm\d*$|(^|\.)ln_\w+$"
    r"|(^|\.)(gate|router|shared_expert_gate|router\.\w+)$"
    r"|(^|\.)(vision|visual|audio|multi_modal|image)\w*\."
    r"|(^|\.)conv1d$"
)
HEAD = re.compile(r"(^|\.)lm_head\.weight$")
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|embeddings)\.weight$")
TOWER = re.compile(r"(^|\.)(vision|visual|audio|multi_modal|image|embed_vision|embed_audio|patch_merg)\w*\.")
PACKED = re.compile(r"\.(weight_packed|qweight)$|_blocks$")
PACKING = re.compile(r"(\.|_)(weight_scale\w*|weight_zero_point|weight_shape|g_idx|scales|qzeros|input_scale)$")
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
EXPERT = re.compile(r"(\.experts)\.\d+(?=\.|$)")


class Piece(NamedTuple):
    """Equal tensors of one place: one Linear's weight, or that of all experts of a layer."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it."""
    copies: int = 1

    @property
    def elements(self) -> int:
        """Numbers, of all copies."""
        return math.prod(self.shape) * self.copies

    @property
    def size_bytes(self) -> int:
        """Bytes as published, of all copies."""
        return (math.prod(self.shape) * BITS[self.dtype] + 7) // 8 * self.copies

    def numbers_each(self, weight_bits: int) -> int:
        """Weights that one stored number stands for: several in a packed word, none in what belongs to the packing."""
        if PACKING.search(self.name):
            return 0
        return BITS[self.dtype] // weight_bits if PACKED.search(self.name) else 1

    @property
    def layer(self) -> int | None:
        """Number of the language model's layer that it belongs to."""
        found = LAYER.search(self.name)
        return int(found[1]) if found and not self.is_tower else None

    @property
    def is_tower(self) -> bool:
        """Whether it belongs to eyes or ears, or to what ties them to the language model."""
        return TOWER.search(self.name) is not None

    @property
    def is_expert(self) -> bool:
        """Whether it is one of many experts, of which a token uses a few."""
        return ".experts" in self.name

    @property
    def is_linear(self) -> bool:
        """Whether a scheme touches it: the weight of a Linear layer, or of fused experts."""
        # Biases of fused experts have two sides too, as many rows as experts.
        if self.dtype not in FLOATS or self.name.endswith("bias") or KEPT.search(self.name.removesuffix(".weight")):
            return False
        if len(self.shape) == 3:
            return self.is_expert
        return len(self.shape) == 2 and (self.name.endswith(".weight") or self.is_expert)


def pieces_of(tensors: Iterable[Tensor]) -> tuple[Piece, ...]:
    """A checkpoint's tensors, the experts of a layer drawn together."""
    counted = Counter((EXPERT.sub(r"\1.*", one.name), one.shape, one.dtype) for one in tensors)
    return tuple(Piece(name, shape, dtype, copies) for (name, shape, dtype), copies in counted.items())


def held(pieces: Iterable[Piece], *, tied: bool, layers: int | None) -> tuple[Piece, ...]:
    """What an engine keeps: a tied head once, and no layers beyond the model's own.

    Args:
        pieces: of the checkpoint.
        tied: whether the head is the embedding.
        layers: the config's number; further ones predict several tokens at once (DeepSeek-V3's layer 61), and
            engines leave them out unless asked.
    """
    pieces = tuple(pieces)
    drop_head = tied and any(EMBEDDING.search(piece.name) for piece in pieces)
    return tuple(
        piece
        for piece in pieces
        if not (drop_head and HEAD.search(piece.name))
        and (layers is None or piece.layer is None or piece.layer < layers)
    )
