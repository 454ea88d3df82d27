"""State of Mamba, linear attention and short convolutions, against sizes computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.fit.memory.kv import CacheLayers, cache_of, kv_bytes_per_token
from weighbridge.errors import ArchitectureUnknown

Config = Callable[[str], dict[str, Any]]


def parts(config: dict[str, Any]) -> tuple[CacheLayers | None, CacheLayers | None]:
    """Attention layers, and layers with a state."""
    cache = cache_of(config)
    return (
        next((layers for layers in cache if layers.kind == "full"), None),
        next((layers for layers in cache if layers.kind == "state"), None),
    )


def test_qwen3_next_state_and_cache(published_config: Config) -> None:
    attending, state = parts(published_config("qwen--qwen3-next-80b-a3b-instruct"))
    assert attending and state
    # Every fourth of 48 layers attends with 2 heads of 256.
    assert (attending.layers, attending.numbers_per_token) == (12, 2 * 2 * 256)
    # Convolution over 16 x 128 keys, as many queries and 32 x 128 values, 3 tokens back; a matrix for each of 32 heads.
    assert (state.layers, state.state_numbers) == (36, 3 * (2 * 16 * 128 + 32 * 128) + 32 * 128 * 128)


def test_jamba_state_and_cache(published_config: Config) -> None:
    attending, state = parts(published_config("ai21labs--jamba-v0.1"))
    assert attending and state
    # Layers 4, 12, 20 and 28 attend; the others widen 4,096 to 8,192 numbers, with 16 states and 3 inputs each.
    assert (attending.layers, attending.numbers_per_token) == (4, 2 * 8 * 128)
    assert (state.layers, state.state_numbers) == (28, 8192 * (16 + 3))


def test_mamba_has_no_growing_cache(published_config: Config) -> None:
    cache = cache_of(published_config("state-spaces--mamba-2.8b-hf"))
    assert cache == (CacheLayers("state", 64, state_numbers=5120 * (16 + 3)),)
    assert kv_bytes_per_token(cache, 2, 1) == 0


MAMBA2 = {
    "model_type": "mamba2",
    "num_hidden_layers": 64,
    "hidden_size": 2560,
    "num_heads": 80,
    "head_dim": 64,
    "state_size": 128,
    "n_groups": 1,
    "conv_kernel": 4,
}


@pytest.mark.parametrize(
    ("config", "attending", "stateful", "numbers"),
    [
        (MAMBA2, 0, 64, 3 * (80 * 64 + 2 * 128) + 80 * 64 * 128),
        # 24 M, 24 - and 4 * in hybrid_override_pattern.
        ("nvidia--nemotron-h-8b-base-8k", 4, 24, 3 * (128 * 64 + 2 * 8 * 128) + 128 * 64 * 128),
        ("ibm-granite--granite-4.0-h-small", 4, 36, 3 * (128 * 64 + 2 * 128) + 128 * 64 * 128),
        # Attention and Mamba side by side in each of 44 layers.
        ("tiiuae--falcon-h1-7b-instruct", 44, 44, 3 * (24 * 128 + 2 * 256) + 24 * 128 * 256),
    ],
)
def test_mamba2_state(published_config: Config, config: Any, attending: int, stateful: int, numbers: int) -> None:
    fields = published_config(config) if isinstance(config, str) else config
    full, state = parts(fields)
    assert (full.layers if full else 0, state.layers if state else 0) == (attending, stateful)
    assert state and state.state_numbers == numbers


def test_short_convolution_state() -> None:
    kinds = ["conv", "conv", "full_attention"] * 4
    config = {"model_type": "lfm2", "num_hidden_layers": 12, "hidden_size": 1024, "num_attention_heads": 16}
    attending, state = parts({**config, "num_key_value_heads": 8, "conv_L_cache": 3, "layer_types": kinds})
    assert attending and state
    assert (attending.layers, state.layers, state.state_numbers) == (4, 8, 2 * 1024)


def test_tensor_parallelism_splits_state_and_cache(published_config: Config) -> None:
    attending, state = parts(published_config("ai21labs--jamba-v0.1"))
    assert attending and state
    assert state.state_bytes(2, 4) * 4 == state.state_bytes(2, 1) == 2 * 155_648
    assert attending.bytes_per_token(2, 4) * 4 == attending.bytes_per_token(2, 1)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "new", "layer_types": ["full_attention", "retention"]}, "retention"),
        ({"model_type": "llama", "layer_types": ["mamba", "full_attention"]}, "mamba"),
        ({"model_type": "qwen3_next", "layer_types": ["linear_attention"] * 2}, "linear_num_key_heads"),
        ({"model_type": "jamba", "attn_layer_period": 2, "attn_layer_offset": 1}, "mamba_expand"),
        ({"model_type": "lfm2", "layer_types": ["conv"] * 2}, "conv_L_cache"),
    ],
)
def test_unknown_kinds_and_missing_fields_are_named(fields: dict[str, Any], named: str) -> None:
    config = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, **fields}
    with pytest.raises(ArchitectureUnknown, match=named):
        cache_of(config)
