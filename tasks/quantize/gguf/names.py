"""From a release's tensors to those of a GGUF: llama.cpp's names, by the `gguf` package's own table.

Which architecture is which stands here, because only what was converted, loaded and asked is promised: each entry
went through a tiny random model of its kind (docs/explanation/gguf.md). Others are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.quantize.tensors import FLOATS, StoredTensor
from weighbridge.errors import QuantizationUncovered

ARCHITECTURES = {
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "GraniteForCausalLM": "granite",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "MixtralForCausalLM": "llama",
    "Olmo2ForCausalLM": "olmo2",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3moe",
    "SmolLM3ForCausalLM": "smollm3",
}
"""Class in `config.json`, and llama.cpp's name."""
# What a checkpoint may hold and nobody reads: the frequencies are computed.
_UNREAD = re.compile(r"(\.rotary_emb\.inv_freq|\.attention\.(masked_)?bias)$")
# Gemma's head is its embedding, whatever else a checkpoint holds (llama.cpp, conversion/gemma.py).
_HEADLESS = {"gemma", "gemma2", "gemma3"}
_EXPERT = re.compile(r"^(?P<before>.*\.experts)\.(?P<number>\d+)\.(?P<kind>.+)$")


class Named(BaseModel):
    """A tensor of the GGUF, and what of the release becomes it."""

    model_config = ConfigDict(frozen=True)

    name: str
    shape: tuple[int, ...]
    """As in safetensors, the row last; experts are stacked in front."""
    sources: tuple[str, ...]
    source_bytes: int
    dtype: str
    """Of the source."""


def architecture_of(config: Mapping[str, Any]) -> str:
    """llama.cpp's name of a release's architecture.

    Raises:
        QuantizationUncovered: it is not among those that were tried.
    """
    found = [str(one) for one in config.get("architectures") or ()]
    for one in found:
        if one in ARCHITECTURES:
            return ARCHITECTURES[one]
    raise QuantizationUncovered(
        f"{', '.join(found) or 'An unnamed architecture'} is not among those that become GGUF here "
        f"({', '.join(sorted(ARCHITECTURES))}).",
        "Name another scheme in the line; a text-only release of the same model may be covered.",
        where="config.json",
    )


def named(tensors: Iterable[StoredTensor], architecture: str, layers: int) -> tuple[Named, ...]:
    """The tensors of the GGUF that a release becomes, by name.

    Args:
        tensors: of the release.
        architecture: llama.cpp's name.
        layers: `num_hidden_layers`.

    Raises:
        QuantizationUncovered: llama.cpp has no place for a tensor, or experts are missing; it is named.
    """
    parts: dict[str, dict[int, StoredTensor]] = {}
    for tensor in sorted(tensors, key=lambda one: one.name):
        if _UNREAD.search(tensor.name) or (architecture in _HEADLESS and tensor.name == "lm_head.weight"):
            continue
        expert = _EXPERT.match(tensor.name)
        single = f"{expert['before']}.{expert['kind']}" if expert else tensor.name
        parts.setdefault(single, {})[int(expert["number"]) if expert else -1] = tensor
    places = _Places(architecture, layers)
    return tuple(sorted((places.of(name, those) for name, those in parts.items()), key=lambda one: one.name))


class _Places:
    """The `gguf` package's table for one architecture."""

    def __init__(self, architecture: str, layers: int) -> None:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        self._names = get_tensor_name_map(
            next(one for one, name in MODEL_ARCH_NAMES.items() if name == architecture), layers
        )

    def of(self, name: str, parts: Mapping[int, StoredTensor]) -> Named:
        """The place of a tensor, or of a layer's experts, which are stacked in the order of their numbers."""
        place = self._place(name)
        first = next(iter(parts.values()))
        if place is None or first.dtype not in FLOATS:
            raise QuantizationUncovered(
                f"llama.cpp has no place for {first.name} ({first.dtype} {list(first.shape)}).",
                "Name another scheme in the line, and report the architecture.",
                where=first.file.name,
            )
        several = set(parts) != {-1}
        if several and (set(parts) != set(range(len(parts))) or len({one.shape for one in parts.values()}) > 1):
            raise QuantizationUncovered(
                f"The experts of {name} are not whole: {len(parts)} are there, numbered up to {max(parts)}.",
                "Download the release again, and report it where it stays so.",
                where=first.file.name,
            )
        ordered = [parts[number] for number in sorted(parts)]
        return Named(
            name=place,
            shape=(len(ordered), *first.shape) if several else first.shape,
            sources=tuple(one.name for one in ordered),
            source_bytes=sum(one.size_bytes for one in ordered),
            dtype=first.dtype,
        )

    def _place(self, name: str) -> str | None:
        suffixes = (".weight", ".bias")
        # The converter gives Mixtral's experts Meta's names before it looks them up.
        for spelled in (name, name.removeprefix("model.").replace("block_sparse_moe", "feed_forward")):
            found = self._names.get_name(spelled, try_suffixes=suffixes)
            if found is not None:
                return str(found)
        return None


def rope_factors(config: Mapping[str, Any], architecture: str) -> tuple[Named, ...]:
    """Tensors that a release does not hold and llama.cpp reads: what Llama 3.1 and Phi 3 stretch positions by."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = parameters.get("rope_type", parameters.get("type"))
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rotated = math.floor(head * float(config.get("partial_rotary_factor", 1)))
    if kind == "llama3" and architecture == "llama":
        names = ["rope_freqs.weight"]
    elif kind in ("longrope", "su", "yarn") and architecture == "phi3":
        names = ["rope_factors_long.weight", "rope_factors_short.weight"]
    else:
        return ()
    return tuple(Named(name=name, shape=(rotated // 2,), sources=(), source_bytes=0, dtype="F32") for name in names)
