"""Bytes of the key-value cache, from `config.json` alone.

Known: attention with grouped, single or all heads (GQA, MQA, MHA), an explicit `head_dim`, MLA (DeepSeek's
compressed latent), layers with a sliding window or chunks. Not known, and refused by name: linear
attention and state-space layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from weighbridge.errors import ArchitectureUnknown

BLOCK_TOKENS = 16
"""vLLM's and most engines' unit of the cache: a request takes whole blocks."""
# Older configs name the same things otherwise.
ALIASES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "hidden_size": ("n_embd", "d_model"),
}
FULL = {"full_attention", "attention", "global"}
WINDOWED = {"sliding_attention", "chunked_attention", "local"}
# These slide in every layer when `sliding_window` is set; for others without `layer_types` the window is
# not believed, which is an upper bound.
SLIDES_EVERYWHERE = {"mistral", "mixtral", "phi3"}


class KvCost(BaseModel):
    """What the cache costs: bytes a token in layers that keep all, and in layers that keep a window."""

    model_config = ConfigDict(frozen=True)

    full_bytes_per_token: int
    window_bytes_per_token: int = 0
    window_tokens: int | None = None
    """Tokens that windowed layers keep at most."""

    @property
    def bytes_per_token(self) -> int:
        """Of a token within the window: all layers."""
        return self.full_bytes_per_token + self.window_bytes_per_token

    def request_bytes(self, context_tokens: int) -> int:
        """Of one request of that length, in whole blocks."""
        full = _whole_blocks(context_tokens)
        kept = min(full, _whole_blocks(self.window_tokens or context_tokens))
        return full * self.full_bytes_per_token + kept * self.window_bytes_per_token


def kv_cost(config: Mapping[str, Any], bytes_each: int) -> KvCost:
    """The cost of a model's cache.

    Args:
        config: config.json; of a model with several parts, its text model counts.
        bytes_each: of one cached number: 2 for bfloat16, 1 for fp8, 4 for float32.

    Raises:
        ArchitectureUnknown: a field is missing, or a kind of layer is not known; it is named.
    """
    text = text_config(config)
    layers = required(text, "num_hidden_layers")
    per_layer = _numbers_per_layer(text) * bytes_each
    windowed, window = _windowed_layers(text, layers)
    return KvCost(
        full_bytes_per_token=(layers - windowed) * per_layer,
        window_bytes_per_token=windowed * per_layer,
        window_tokens=window if windowed else None,
    )


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that describes the language model."""
    for name in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(name), Mapping):
            return {**config, **config[name]}
    return config


def required(config: Mapping[str, Any], field: str) -> int:
    """A whole number of the config, under its name or an older one.

    Raises:
        ArchitectureUnknown: it is missing; it is named.
    """
    for name in (field, *ALIASES.get(field, ())):
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    raise ArchitectureUnknown(
        f"config.json of model type {config.get('model_type')!r} has no usable `{field}`, so its memory is not known.",
        "Choose a release of a known architecture, or teach tasks/fit/kv.py this one.",
        where="config.json",
    )


def _numbers_per_layer(text: Mapping[str, Any]) -> int:
    """Numbers that one layer keeps of one token."""
    if text.get("kv_lora_rank"):
        # MLA: one latent for keys and values and one shared rotary key, whatever the number of heads.
        return required(text, "kv_lora_rank") + required(text, "qk_rope_head_dim")
    heads = required(text, "num_attention_heads")
    if text.get("num_key_value_heads"):
        kv_heads = required(text, "num_key_value_heads")
    else:
        # Every head its own, as transformers' classes default to: the upper bound. Falcon's flag says one.
        kv_heads = 1 if text.get("multi_query") else heads
    head_dim = text.get("head_dim") or required(text, "hidden_size") // heads
    return int(2 * kv_heads * head_dim)


def _windowed_layers(text: Mapping[str, Any], layers: int) -> tuple[int, int | None]:
    """How many layers keep only a window, and its tokens."""
    window = text.get("sliding_window") or text.get("attention_chunk_size")
    kinds = text.get("layer_types")
    if kinds:
        if strange := sorted(set(kinds) - FULL - WINDOWED):
            raise ArchitectureUnknown(
                f"config.json has layers of kind {', '.join(strange)} in `layer_types`; what they cache is not known.",
                "Choose a release whose layers all attend, or teach tasks/fit/kv.py this kind.",
                where="config.json",
            )
        count = sum(kind in WINDOWED for kind in kinds)
        return (count, required(text, "sliding_window") if not window else int(window)) if count else (0, None)
    if not window or text.get("use_sliding_window") is False:
        return 0, None
    if pattern := text.get("sliding_window_pattern"):
        return layers - layers // int(pattern), int(window)
    return (layers, int(window)) if text.get("model_type") in SLIDES_EVERYWHERE else (0, None)


def _whole_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
