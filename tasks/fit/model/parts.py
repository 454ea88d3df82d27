"""The parts of a model's weights: which are Linear, experts, towers, and which layer each belongs to."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from tasks.source.headers import BITS, Tensor

FLOATS = {"BF16", "F16", "F32"}
# Left as published by every scheme: the head, embeddings, norms, routers of experts, towers.
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


class Part(NamedTuple):
    """Equal tensors in one place: a Linear's weight, or the weights of all experts of a layer."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """Name in safetensors."""
    copies: int = 1

    @property
    def elements(self) -> int:
        """Number of elements in all copies."""
        return math.prod(self.shape) * self.copies

    @property
    def size_bytes(self) -> int:
        """Bytes of all copies as published."""
        return (math.prod(self.shape) * BITS[self.dtype] + 7) // 8 * self.copies

    def numbers_each(self, weight_bits: int) -> int:
        """Weights per stored number: several in a packed word, none in scales, zero points and shapes."""
        if PACKING.search(self.name):
            return 0
        return BITS[self.dtype] // weight_bits if PACKED.search(self.name) else 1

    @property
    def layer(self) -> int | None:
        """Index of its layer in the language model, or None."""
        found = LAYER.search(self.name)
        return int(found[1]) if found and not self.is_tower else None

    @property
    def is_tower(self) -> bool:
        """Whether it belongs to a vision or audio tower, or to its projector."""
        return TOWER.search(self.name) is not None

    @property
    def is_expert(self) -> bool:
        """Whether it belongs to the experts of a mixture, of which a token uses a few."""
        return ".experts" in self.name

    @property
    def is_linear(self) -> bool:
        """Whether schemes quantize it: the weight of a Linear layer or of fused experts."""
        # Biases of fused experts are two-dimensional too, with a row for each expert.
        if self.dtype not in FLOATS or self.name.endswith("bias") or KEPT.search(self.name.removesuffix(".weight")):
            return False
        if len(self.shape) == 3:
            return self.is_expert
        return len(self.shape) == 2 and (self.name.endswith(".weight") or self.is_expert)


def parts_of(tensors: Iterable[Tensor]) -> tuple[Part, ...]:
    """Make parts of a checkpoint's tensors; equal experts of a layer become one part."""
    counted = Counter((EXPERT.sub(r"\1.*", tensor.name), tensor.shape, tensor.dtype) for tensor in tensors)
    return tuple(Part(name, shape, dtype, copies) for (name, shape, dtype), copies in counted.items())


def loaded_parts(parts: Iterable[Part], *, tied: bool, layers: int | None) -> tuple[Part, ...]:
    """Select the parts that an engine loads: a tied head once, and no layers beyond the model's own.

    Args:
        parts: of the checkpoint.
        tied: whether the head is the embedding.
        layers: the config's number; further layers predict several tokens at once (DeepSeek-V3's layer 61), and
            engines skip them by default.
    """
    parts = tuple(parts)
    drop_head = tied and any(EMBEDDING.search(part.name) for part in parts)
    return tuple(
        part
        for part in parts
        if not (drop_head and HEAD.search(part.name)) and (layers is None or part.layer is None or part.layer < layers)
    )
