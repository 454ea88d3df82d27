"""Map a release's tensors to those of a GGUF, by the `gguf` package's table of llama.cpp's names.

Supported architectures are listed here: each was converted, loaded and queried with a tiny random model
(docs/explanation/gguf.md). Others are refused by name.
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
# Tensors that a checkpoint may contain but no engine reads: the frequencies are computed.
_UNREAD = re.compile(r"(\.rotary_emb\.inv_freq|\.attention\.(masked_)?bias)$")
# Gemma's head is always its embedding, even if a checkpoint has another (llama.cpp, conversion/gemma.py).
_HEADLESS = {"gemma", "gemma2", "gemma3"}
_EXPERT = re.compile(r"^(?P<before>.*\.experts)\.(?P<number>\d+)\.(?P<kind>.+)$")


class MappedTensor(BaseModel):
    """A tensor of the GGUF, and the release's tensors that it is made of."""

    model_config = ConfigDict(frozen=True)

    name: str
    shape: tuple[int, ...]
    """In safetensors' order, the row last; stacked experts first."""
    sources: tuple[str, ...]
    source_bytes: int
    dtype: str
    """Of the source."""


def architecture_of(config: Mapping[str, Any]) -> str:
    """llama.cpp's name of a release's architecture.

    Raises:
        QuantizationUncovered: the architecture is not supported.
    """
    found = [str(name) for name in config.get("architectures") or ()]
    for name in found:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    raise QuantizationUncovered(
        f"{', '.join(found) or 'An unnamed architecture'} cannot be converted to GGUF; supported are "
        f"{', '.join(sorted(ARCHITECTURES))}.",
        "Name another scheme in the line; a text-only release of the same model may be covered.",
        where="config.json",
    )


def map_tensors(tensors: Iterable[StoredTensor], architecture: str, layers: int) -> tuple[MappedTensor, ...]:
    """Map a release's tensors to those of its GGUF, sorted by name.

    Args:
        tensors: of the release.
        architecture: llama.cpp's name.
        layers: `num_hidden_layers`.

    Raises:
        QuantizationUncovered: llama.cpp has no place for a tensor, or experts are missing; it is named.
    """
    parts: dict[str, dict[int, StoredTensor]] = {}
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        if _UNREAD.search(tensor.name) or (architecture in _HEADLESS and tensor.name == "lm_head.weight"):
            continue
        expert = _EXPERT.match(tensor.name)
        single = f"{expert['before']}.{expert['kind']}" if expert else tensor.name
        parts.setdefault(single, {})[int(expert["number"]) if expert else -1] = tensor
    places = _Places(architecture, layers)
    return tuple(
        sorted((places.of(name, tensors_of) for name, tensors_of in parts.items()), key=lambda mapped: mapped.name)
    )


class _Places:
    """The `gguf` package's table for one architecture."""

    def __init__(self, architecture: str, layers: int) -> None:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        self._names = get_tensor_name_map(
            next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture), layers
        )

    def of(self, name: str, parts: Mapping[int, StoredTensor]) -> MappedTensor:
        """Map one tensor, or a layer's experts, which are stacked in numerical order."""
        place = self._place(name)
        first = next(iter(parts.values()))
        if place is None or first.dtype not in FLOATS:
            raise QuantizationUncovered(
                f"llama.cpp has no place for {first.name} ({first.dtype} {list(first.shape)}).",
                "Name another scheme in the line, and report the architecture.",
                where=first.file.name,
            )
        several = set(parts) != {-1}
        if several and (set(parts) != set(range(len(parts))) or len({part.shape for part in parts.values()}) > 1):
            raise QuantizationUncovered(
                f"The experts of {name} are incomplete: {len(parts)} are present, numbered up to {max(parts)}.",
                "Download the release again, and report it where it stays so.",
                where=first.file.name,
            )
        ordered = [parts[number] for number in sorted(parts)]
        return MappedTensor(
            name=place,
            shape=(len(ordered), *first.shape) if several else first.shape,
            sources=tuple(part.name for part in ordered),
            source_bytes=sum(part.size_bytes for part in ordered),
            dtype=first.dtype,
        )

    def _place(self, name: str) -> str | None:
        suffixes = (".weight", ".bias")
        # The converter renames Mixtral's experts to Meta's names before the look-up.
        for spelled in (name, name.removeprefix("model.").replace("block_sparse_moe", "feed_forward")):
            found = self._names.get_name(spelled, try_suffixes=suffixes)
            if found is not None:
                return str(found)
        return None


def rope_factors(config: Mapping[str, Any], architecture: str) -> tuple[MappedTensor, ...]:
    """Tensors that llama.cpp reads and a release lacks: the position scaling factors of Llama 3.1 and Phi 3."""
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
    return tuple(
        MappedTensor(name=name, shape=(rotated // 2,), sources=(), source_bytes=0, dtype="F32") for name in names
    )
