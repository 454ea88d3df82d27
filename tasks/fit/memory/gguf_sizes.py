"""Bytes of a tensor in GGUF files, by the type that llama.cpp's quantizer gives it.

Source: llama.cpp's quantizer (src/llama-quant.cpp) and block layouts (ggml/src/ggml-common.h). Vectors and
routers stay float32, the head and a tied embedding are Q6_K, values and the feed-forward's output are Q6_K in the
layers that `more_bits` names.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from tasks.fit.model.parts import EMBEDDING, HEAD, LAYER, TOWER
from tasks.schemes import GgufMixture

if TYPE_CHECKING:
    from tasks.fit.model.shape import ModelShape

# Type: bytes and numbers of a block.
BLOCKS = {
    "q8_0": (34, 32),
    "q5_0": (22, 32),
    "q5_1": (24, 32),
    "q4_k": (144, 256),
    "q5_k": (176, 256),
    "q6_k": (210, 256),
}
# The fallback type for rows that are not a multiple of 256.
NARROW = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
ROUTER = re.compile(r"\.(gate|router|shared_expert_gate)\.(weight|bias)$")
VALUES = re.compile(r"\.v_proj\.weight$")
KEYS = re.compile(r"\.k_proj\.weight$")
OUTPUT = re.compile(r"\.o_proj\.weight$")
DOWN = re.compile(r"\.(down_proj|c_proj|w2)(\.weight)?$")
LAYERS_OF_70B = 80
EIGHT_EXPERTS = 8


def gguf_bytes(name: str, dimensions: tuple[int, ...], mixture: GgufMixture, shape: ModelShape) -> float:
    """Bytes of one tensor.

    Args:
        name, dimensions: as published.
        mixture: the scheme's.
        shape: the model; its number of layers and experts decide some types.
    """
    elements = math.prod(dimensions)
    if TOWER.search(name):
        return elements * 2  # in a file of its own (mmproj), as float16
    if len(dimensions) < 2 or name.endswith("bias") or ROUTER.search(name) or "norm" in name or "conv1d" in name:
        return elements * 4
    base = mixture.base.lower()
    kind = base if base == "q8_0" else _mixed_type(name, base, shape)
    if dimensions[-1] % BLOCKS[kind][1]:
        kind = NARROW.get(kind, kind)
    size, numbers = BLOCKS[kind]
    return elements // dimensions[-1] * -(-dimensions[-1] // numbers) * size


def more_bits(layer: int, layers: int) -> bool:
    """Whether a mixture gives a layer more bits: the first and last eighth, and every third layer between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _mixed_type(name: str, base: str, shape: ModelShape) -> str:
    """The type in a mixture of K types, before the row's width is considered."""
    tied = not any(HEAD.search(part.name) for part in shape.parts)
    if HEAD.search(name) or (tied and EMBEDDING.search(name)):
        return "q6_k"
    found = LAYER.search(name)
    if found is None:
        return base
    more, eight = more_bits(int(found[1]), shape.layers), shape.text.get("num_local_experts") == EIGHT_EXPERTS
    if VALUES.search(name):
        if eight:
            return "q8_0"
        if more:
            return "q6_k"
        return _at_least_q5(base) if shape.layers == LAYERS_OF_70B else base
    if KEYS.search(name) and eight:
        return "q8_0"
    if OUTPUT.search(name) and eight:
        return _at_least_q5(base)
    if DOWN.search(name) and more:
        return "q6_k"
    return base


def _at_least_q5(base: str) -> str:
    return "q5_k" if base == "q4_k" else base
