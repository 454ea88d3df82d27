"""Choose each tensor's type as llama.cpp does for a file type: Q8_0, Q4_K_M and its relatives.

Source: llama.cpp, src/llama-quant.cpp, October 2026: `tensor_allows_quantization`, `llama_tensor_get_type_impl` and
`tensor_type_fallback`. A file called Q4_K_M elsewhere has the same types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from tasks.fit.memory.gguf_sizes import more_bits
from tasks.source.gguf.tensor_types import TENSOR_TYPES, TensorType

LAYERS_OF_70B = 80
EIGHT_EXPERTS = 8
# Replacements if a row is not a multiple of 256.
_NARROW = {"q4_K": "q5_0", "q5_K": "q5_1", "q6_K": "q8_0"}
_LAYER = re.compile(r"blk\.(\d+)\.")
# Tensors that llama.cpp's quantizer keeps, for the architectures in names.py; the converter stores them as float32.
_KEPT = (
    (re.compile(r"_norm\.weight$"), "a norm is not a matrix product"),
    (re.compile(r"\.ffn_gate_inp(_shexp)?\.weight$"), "a rounded router sends tokens to other experts"),
    (re.compile(r"(?<!\.weight)$"), "a bias or a factor is added or multiplied, once a row"),
)


class Structure(BaseModel):
    """The properties of a model that, with a tensor's name, decide its type."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    """GGUF's name."""
    layers: int
    experts: int
    shares_kv_heads: bool
    """Whether several query heads share a key-value head."""
    tied: bool
    """Whether the embedding is also the head."""

    @property
    def is_70b(self) -> bool:
        """llama.cpp's LLM_TYPE_70B (src/llama-model.cpp): Llama 2 and 3 of 70B, Qwen2 of 72B."""
        shares = self.shares_kv_heads if self.architecture == "llama" else self.architecture == "qwen2"
        return shares and self.layers == LAYERS_OF_70B


def kept_reason(name: str, dimensions: int) -> str:
    """Why a tensor is not quantized; empty if it is."""
    for pattern, reason in _KEPT:
        if pattern.search(name):
            return reason
    return "a vector is added or multiplied, once a row" if dimensions < 2 else ""


def tensor_type_of(name: str, columns: int, base: str, structure: Structure) -> TensorType:
    """The type of a quantized tensor.

    Args:
        name: in GGUF.
        columns: width of its rows.
        base: the type that most tensors get, a `GgufMixture`'s.
        structure: of the model.
    """
    chosen = base if base == "q8_0" else _mixed(name, columns, base, structure)
    if columns % TENSOR_TYPES[chosen].values:
        chosen = _NARROW.get(chosen, chosen)
    # The row may not be a multiple of 32 either.
    return TENSOR_TYPES["f16"] if columns % TENSOR_TYPES[chosen].values else TENSOR_TYPES[chosen]


def _mixed(name: str, columns: int, base: str, structure: Structure) -> str:
    """The type in a mixture of K types, before the row's width is considered."""
    if name == "output.weight" or (structure.tied and name == "token_embd.weight"):
        return "q8_0" if columns % TENSOR_TYPES[base].values else "q6_K"
    found = _LAYER.search(name)
    more = found is not None and more_bits(int(found[1]), structure.layers)
    eight = structure.experts == EIGHT_EXPERTS
    if re.search(r"attn_(v|qkv|kv_b)\.weight$", name):
        if eight:
            return "q8_0"
        return "q6_K" if more else _at_least_q5(base) if structure.is_70b else base
    if "ffn_down" in name:
        return "q6_K" if more else base
    if eight and name.endswith("attn_k.weight"):
        return "q8_0"
    if eight and name.endswith("attn_output.weight"):
        return _at_least_q5(base)
    return base


def _at_least_q5(base: str) -> str:
    return "q5_K" if base == "q4_K" else base


def histogram(kinds: Iterable[TensorType]) -> str:
    """`Q6_K × 15, Q4_K × 197`, the smallest blocks last."""
    names = [kind.name for kind in kinds]
    order = sorted(set(names), key=lambda name: -TENSOR_TYPES[name].block_bytes / TENSOR_TYPES[name].values)
    return ", ".join(f"{name.upper()} × {names.count(name)}" for name in order)
