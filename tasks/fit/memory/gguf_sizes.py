"""Bytes of a tensor in GGUF files: the type that each tensor gets in Q8_0 and in the mixture Q4_K_M.

Source: llama.cpp's quantizer (src/llama-quant.cpp) and block layouts (ggml/src/ggml-common.h). Vectors and
routers stay float32, the head and a tied embedding are Q6_K, values and the feed-forward's output are Q6_K in the
layers that `more_bits` names.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from tasks.fit.model.parts import EMBEDDING, HEAD, LAYER, TOWER

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


def gguf_bytes(name: str, sides: tuple[int, ...], scheme: str, shape: ModelShape) -> float:
    """Bytes of one tensor.

    Args:
        name, sides: as published.
        scheme: name, `q8-0` or `q4-k-m`.
        shape: the model; its number of layers and experts decide some types.
    """
    elements = math.prod(sides)
    if TOWER.search(name):
        return elements * 2  # in a file of its own (mmproj), as float16
    if len(sides) < 2 or name.endswith("bias") or ROUTER.search(name) or "norm" in name or "conv1d" in name:
        return elements * 4
    kind = "q8_0" if scheme == "q8-0" else _mixture(name, shape)
    if sides[-1] % BLOCKS[kind][1]:
        kind = NARROW.get(kind, kind)
    size, numbers = BLOCKS[kind]
    return elements // sides[-1] * -(-sides[-1] // numbers) * size


def more_bits(layer: int, layers: int) -> bool:
    """Whether Q4_K_M gives a layer more bits: the first and last eighth, and every third layer between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _mixture(name: str, shape: ModelShape) -> str:
    tied = not any(HEAD.search(part.name) for part in shape.parts)
    if HEAD.search(name) or (tied and EMBEDDING.search(name)):
        return "q6_k"
    found = LAYER.search(name)
    if found is None:
        return "q4_k"
    more, eight = more_bits(int(found[1]), shape.layers), shape.text.get("num_local_experts") == EIGHT_EXPERTS
    if VALUES.search(name):
        if eight:
            return "q8_0"
        if shape.layers == LAYERS_OF_70B and not more:
            return "q5_k"
        return "q6_k" if more else "q4_k"
    if KEYS.search(name) and eight:
        return "q8_0"
    if OUTPUT.search(name) and eight:
        return "q5_k"
    if DOWN.search(name) and more:
        return "q6_k"
    return "q4_k"
