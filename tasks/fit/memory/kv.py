"""What each layer keeps of a request, from `config.json` alone: so many bytes a token, or a fixed state.

Attention with grouped, single or all heads (GQA, MQA, MHA) and an explicit `head_dim`; MLA (one latent,
whatever the number of heads); layers with a window or chunks; layers that share another's cache; linear
attention, Mamba and short convolutions (`state.py`). What is not known is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from tasks.fit.memory.state import state_layers
from tasks.fit.model.architectures import architecture, head_size, kv_heads, required, text_config
from weighbridge.errors import ArchitectureUnknown

FULL = {"full_attention", "attention", "global"}
WINDOWED = {"sliding_attention", "chunked_attention", "local"}
INDEX_BYTES_PER_TOKEN = 132
"""DeepSeek-V3.2's sparse-attention index: 128 numbers of 8 bits and a 32-bit scale (vLLM, deepseek_v2.py)."""

Kind = Literal["full", "window", "latent", "state"]


class CacheLayers(NamedTuple):
    """Layers that keep the same."""

    kind: Kind
    layers: int
    numbers_per_token: int = 0
    """That one layer keeps, of all its heads."""
    heads: int = 1
    """Of keys; with more GPUs than heads each GPU still holds one. 0: every GPU holds all (a latent)."""
    extra_bytes_per_token: int = 0
    """Beside the numbers, whatever their dtype."""
    window: int | None = None
    """Tokens that a windowed layer looks back."""
    state_numbers: int = 0
    """That one layer keeps of a request, however long it is."""

    def bytes_per_token(self, bytes_each: float, tp: int) -> float:
        """Of one layer, on one of `tp` GPUs."""
        if self.kind == "state":
            return 0
        share = 1.0 if self.heads == 0 else max(1 / tp, 1 / self.heads)
        return self.numbers_per_token * bytes_each * share + self.extra_bytes_per_token

    def state_bytes(self, bytes_each: float, tp: int) -> float:
        """Of one layer and request, on one of `tp` GPUs."""
        return self.state_numbers * bytes_each / tp


def cache_of(config: Mapping[str, Any]) -> tuple[CacheLayers, ...]:
    """What a model's layers keep; layers that keep nothing are left out.

    Args:
        config: config.json; of a model with several parts, its text model counts.

    Raises:
        ArchitectureUnknown: a field is missing, or a kind of layer is not known; it is named.
    """
    text = text_config(config)
    layers = required(text, "num_hidden_layers")
    states = state_layers(text, layers)
    kept = [CacheLayers("state", one.layers, state_numbers=one.numbers) for one in states.kinds]
    attending = states.attending - int(text.get("num_kv_shared_layers") or 0)
    if attending > 0:
        kept = [*_attention(text, layers, attending), *kept]
    return tuple(kept)


def _attention(text: Mapping[str, Any], layers: int, attending: int) -> list[CacheLayers]:
    if text.get("kv_lora_rank"):
        numbers = required(text, "kv_lora_rank") + required(text, "qk_rope_head_dim")
        extra = INDEX_BYTES_PER_TOKEN if text.get("index_topk") else 0
        return [CacheLayers("latent", attending, numbers, heads=0, extra_bytes_per_token=extra)]
    heads = kv_heads(text)
    numbers = 2 * heads * head_size(text)
    windowed, window = _windowed(text, layers, attending)
    made = [CacheLayers("full", attending - windowed, numbers, heads)] if attending > windowed else []
    if windowed:
        made.append(CacheLayers("window", windowed, numbers, heads, window=window))
    return made


def _windowed(text: Mapping[str, Any], layers: int, attending: int) -> tuple[int, int | None]:
    """How many layers keep only a window, and its tokens."""
    window = text.get("sliding_window") or text.get("attention_chunk_size")
    kinds = text.get("layer_types")
    if kinds:
        known = [kind for kind in kinds[:layers] if kind in FULL | WINDOWED][:attending]
        count = sum(kind in WINDOWED for kind in known)
        return (count, int(window or required(text, "sliding_window"))) if count else (0, None)
    if not window or text.get("use_sliding_window") is False:
        return 0, None
    return _by_rule(text, layers), int(window)


def _by_rule(text: Mapping[str, Any], layers: int) -> int:
    """Windowed layers where the config does not list them; unsure means none, which is an upper bound."""
    if pattern := text.get("sliding_window_pattern"):
        return layers - layers // int(pattern)
    known = architecture(str(text.get("model_type")))
    rule = known.window if known else "none"
    if isinstance(rule, dict):
        return layers - layers // rule["every"]
    if rule == "tail":
        first = int(text.get("max_window_layers") or layers)
        return max(0, layers - first) if text.get("use_sliding_window") else 0
    return {"none": 0, "all": layers, "even": (layers + 1) // 2}[rule]


def kv_bytes_per_token(cache: tuple[CacheLayers, ...], bytes_each: float, tp: int) -> int:
    """Bytes that all layers of one GPU keep of a token within every window."""
    return round(sum(one.layers * one.bytes_per_token(bytes_each, tp) for one in cache))


def check_against_tensors(config: Mapping[str, Any], cache: tuple[CacheLayers, ...], found: list[int]) -> None:
    """Hold what the config says of keys and values against the matrices that make them.

    Args:
        config: config.json.
        cache: from `cache_of`.
        found: rows of each layer's key and value projections, as far as the tensors' names tell.

    Raises:
        ArchitectureUnknown: they differ, so the formula does not hold for this architecture; or the architecture is
            not one of ours and its tensors do not show their keys and values.
    """
    attending = [one for one in cache if one.kind in ("full", "window")]
    model_type = text_config(config).get("model_type")
    if not attending:
        return
    if not found:
        if architecture(str(model_type)) or FUSED_KNOWN & {str(model_type)}:
            return
        raise ArchitectureUnknown(
            f"Model type {model_type!r} shows no key and value projections by their usual names, so what it caches of "
            "a token cannot be checked.",
            "Teach tasks/fit/model/architectures.yaml this architecture.",
            where="config.json",
        )
    widths = {one.numbers_per_token for one in attending}
    if not set(found) <= widths:
        strange = sorted(set(found) - widths)[0]
        raise ArchitectureUnknown(
            f"config.json of model type {model_type!r} means {sorted(widths)[0]} cached numbers a token and layer, and "
            f"a layer's key and value projections make {strange}.",
            "Teach tasks/fit/memory/kv.py what this architecture caches.",
            where="config.json",
        )


FUSED_KNOWN = {"gpt2", "falcon", "bloom", "gpt_neox", "gpt_bigcode", "mpt", "phi3", "mllama_text_model"}
"""Architectures that publish queries, keys and values in one matrix, or attend across models, and cache by the
usual rule."""
