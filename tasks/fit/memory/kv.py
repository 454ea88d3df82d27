"""Size of each layer's cache, from `config.json` alone: bytes per token, or a fixed state.

Attention with grouped, single or all heads (GQA, MQA, MHA) and an explicit `head_dim`; MLA (one latent,
whatever the number of heads); layers with a window or chunks; layers that share another's cache; linear
attention, Mamba and short convolutions (`state.py`). Unknown kinds are refused by name.
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

LayerKind = Literal["full", "window", "latent", "state"]


class CacheLayers(NamedTuple):
    """Layers with the same kind of cache."""

    kind: LayerKind
    layers: int
    numbers_per_token: int = 0
    """Cached by one layer, all heads together."""
    heads: int = 1
    """Key heads; with more GPUs than heads each GPU still holds one. 0: every GPU holds everything (a latent)."""
    extra_bytes_per_token: int = 0
    """Beside the cached numbers, independent of their dtype."""
    window: int | None = None
    """Tokens that a windowed layer attends to."""
    state_numbers: int = 0
    """Fixed size of one layer's state for a request."""

    def bytes_per_token(self, bytes_each: float, tp: int) -> float:
        """Bytes that one layer caches per token on one of `tp` GPUs."""
        if self.kind == "state":
            return 0
        share = 1.0 if self.heads == 0 else max(1 / tp, 1 / self.heads)
        return self.numbers_per_token * bytes_each * share + self.extra_bytes_per_token

    def state_bytes(self, bytes_each: float, tp: int) -> float:
        """Bytes of one layer's state for a request on one of `tp` GPUs."""
        return self.state_numbers * bytes_each / tp


def cache_of(config: Mapping[str, Any]) -> tuple[CacheLayers, ...]:
    """Determine what a model's layers cache; layers without a cache are left out.

    Args:
        config: config.json; of a composite model, its text model.

    Raises:
        ArchitectureUnknown: a field is missing or a kind of layer unknown; it is named.
    """
    text = text_config(config)
    layers = required(text, "num_hidden_layers")
    states = state_layers(text, layers)
    kinds = [CacheLayers("state", state.layers, state_numbers=state.numbers) for state in states.kinds]
    attending = states.attending - int(text.get("num_kv_shared_layers") or 0)
    if attending > 0:
        kinds = [*_attention(text, layers, attending), *kinds]
    return tuple(kinds)


def _attention(text: Mapping[str, Any], layers: int, attending: int) -> list[CacheLayers]:
    if text.get("kv_lora_rank"):
        numbers = required(text, "kv_lora_rank") + required(text, "qk_rope_head_dim")
        extra = INDEX_BYTES_PER_TOKEN if text.get("index_topk") else 0
        return [CacheLayers("latent", attending, numbers, heads=0, extra_bytes_per_token=extra)]
    heads = kv_heads(text)
    numbers = 2 * heads * head_size(text)
    windowed, window = _windowed(text, layers, attending)
    found = [CacheLayers("full", attending - windowed, numbers, heads)] if attending > windowed else []
    if windowed:
        found.append(CacheLayers("window", windowed, numbers, heads, window=window))
    return found


def _windowed(text: Mapping[str, Any], layers: int, attending: int) -> tuple[int, int | None]:
    """Number of layers that cache only a window, and its tokens."""
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
    """Number of windowed layers if the config does not list them; 0 if unsure, which is an upper bound of memory."""
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
    """Bytes that all layers on one GPU cache per token, while a request is shorter than every window."""
    return round(sum(kind.layers * kind.bytes_per_token(bytes_each, tp) for kind in cache))


def check_against_tensors(config: Mapping[str, Any], cache: tuple[CacheLayers, ...], found: list[int]) -> None:
    """Check the cache size that the config implies against the key and value projections.

    Args:
        config: config.json.
        cache: from `cache_of`.
        found: rows of each layer's key and value projections, as far as tensor names show them.

    Raises:
        ArchitectureUnknown: they differ, so the formula does not hold for this architecture; or the architecture is
            unknown and its tensors have no recognizable key and value projections.
    """
    attending = [kind for kind in cache if kind.kind in ("full", "window")]
    model_type = text_config(config).get("model_type")
    if not attending:
        return
    if not found:
        if architecture(str(model_type)) or FUSED_KNOWN & {str(model_type)}:
            return
        raise ArchitectureUnknown(
            f"Model type {model_type!r} has no key and value projections under their usual names, so its cache per "
            "token cannot be checked.",
            "Add this architecture to tasks/fit/model/architectures.yaml.",
            where="config.json",
        )
    widths = {kind.numbers_per_token for kind in attending}
    if not set(found) <= widths:
        strange = sorted(set(found) - widths)[0]
        raise ArchitectureUnknown(
            f"config.json of model type {model_type!r} implies {sorted(widths)[0]} cached numbers per token and layer, "
            f"but a layer's key and value projections have {strange}.",
            "Add this architecture's cache to tasks/fit/memory/kv.py.",
            where="config.json",
        )


FUSED_KNOWN = {"gpt2", "falcon", "bloom", "gpt_neox", "gpt_bigcode", "mpt", "phi3", "mllama_text_model"}
"""Architectures with queries, keys and values in one matrix, or with cross-attention, that cache by the usual rule."""
