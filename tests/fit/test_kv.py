"""Cache bytes per token, against figures computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.fit.catalogue import model_of
from tasks.fit.memory.kv import CacheLayers, cache_of, check_against_tensors, kv_bytes_per_token
from tasks.fit.model.shape import ModelShape
from weighbridge.errors import ArchitectureUnknown

GQA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
LLAMA_TOKEN_BYTES = 131_072


def token_bytes(config: dict[str, Any], bytes_each: float = 2, tp: int = 1) -> int:
    return kv_bytes_per_token(cache_of(config), bytes_each, tp)


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("Llama 3.1 8B", GQA, 131_072),
        ("Qwen3 0.6B", {**GQA, "num_hidden_layers": 28, "head_dim": 128, "hidden_size": 1024}, 114_688),
        ("DeepSeek V3", {**GQA, "num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 70_272),
        ("GPT-2", {"n_layer": 12, "n_head": 12, "n_embd": 768}, 36_864),
        ("Falcon 7B", {"n_layer": 32, "n_head": 71, "hidden_size": 4544, "multi_query": True}, 8_192),
        ("a model of several parts", {"model_type": "vlm", "text_config": GQA}, 131_072),
    ],
)
def test_cache_bytes_per_token(name: str, config: dict[str, Any], expected: int) -> None:
    assert token_bytes(config) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama--llama-3.1-8b-instruct", 131_072),
        ("qwen--qwen3-0.6b", 114_688),
        ("deepseek-ai--deepseek-v3", 70_272),
        # 34 layers of 4 heads of 256; its text_config states neither.
        ("google--gemma-3-4b-it", 34 * 2 * 4 * 256 * 2),
    ],
)
def test_cache_bytes_of_public_models(
    published_config: Callable[[str], dict[str, Any]], name: str, expected: int
) -> None:
    assert token_bytes(published_config(name)) == expected


def test_a_smaller_cache_dtype_takes_less() -> None:
    assert token_bytes(GQA, 1) == LLAMA_TOKEN_BYTES // 2
    assert token_bytes(GQA, 4.5 / 8) == LLAMA_TOKEN_BYTES * 4.5 // 16


@pytest.mark.parametrize(("tp", "share"), [(1, 1), (2, 2), (4, 4), (8, 8), (16, 8), (32, 8)])
def test_kv_heads_are_split_until_each_gpu_has_one(tp: int, share: int) -> None:
    assert token_bytes(GQA, tp=tp) == LLAMA_TOKEN_BYTES // share


def test_a_latent_is_on_every_gpu(published_config: Callable[[str], dict[str, Any]]) -> None:
    assert {token_bytes(published_config("deepseek-ai--deepseek-v3"), tp=tp) for tp in (1, 2, 8)} == {70_272}
    # DeepSeek-V3.2's index: 132 bytes more a token and layer, whatever the cache's dtype.
    sparse = {**published_config("deepseek-ai--deepseek-v3"), "index_topk": 2048}
    assert token_bytes(sparse, 1) == 61 * (576 + 132)


def windows(config: dict[str, Any]) -> tuple[int, int, int | None]:
    """Full layers, windowed layers, tokens of the window."""
    cache = cache_of(config)
    full = sum(layers.layers for layers in cache if layers.kind == "full")
    window = next((layers for layers in cache if layers.kind == "window"), CacheLayers("window", 0))
    return full, window.layers, window.window


KINDS = ["sliding_attention"] * 24 + ["full_attention"] * 8


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (32, 0, None)),
        ({"layer_types": KINDS, "sliding_window": 1024}, (8, 24, 1024)),
        ({"layer_types": ["chunked_attention"] * 24 + KINDS[24:], "attention_chunk_size": 8192}, (8, 24, 8192)),
        ({"layer_types": ["full_attention"] * 32, "sliding_window": 1024}, (32, 0, None)),
        # A disabled window, or one of an unlisted model, saves nothing: the upper bound.
        ({"sliding_window": 4096, "model_type": "mistral", "use_sliding_window": False}, (32, 0, None)),
        ({"sliding_window": 4096, "model_type": "new"}, (32, 0, None)),
        ({"sliding_window": None, "model_type": "mistral"}, (32, 0, None)),
        ({"sliding_window": 4096, "model_type": "mistral"}, (0, 32, 4096)),
        ({"sliding_window": 512, "sliding_window_pattern": 6, "model_type": "new"}, (5, 27, 512)),
        ({"model_type": "gemma3_text", "sliding_window": 1024}, (5, 27, 1024)),
        ({"model_type": "gemma2"}, (16, 16, 4096)),
        ({"model_type": "gemma2", "num_hidden_layers": 13}, (6, 7, 4096)),
        ({"model_type": "qwen2", "sliding_window": 4096}, (32, 0, None)),
        (
            {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28},
            (28, 4, 4096),
        ),
        (
            {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28},
            (32, 0, None),
        ),
    ],
)
def test_windowed_layers_are_counted(fields: dict[str, Any], expected: tuple[int, int, int | None]) -> None:
    assert windows({**GQA, **fields}) == expected


def test_a_window_limits_tokens_and_not_bytes_per_token() -> None:
    assert token_bytes({**GQA, "layer_types": KINDS, "sliding_window": 1024}) == LLAMA_TOKEN_BYTES


def test_layers_that_share_a_cache_add_none() -> None:
    # Gemma 3n: the last layers read what earlier ones wrote.
    shared = {**GQA, "num_kv_shared_layers": 8}
    assert token_bytes(shared) == LLAMA_TOKEN_BYTES * 24 // 32
    assert windows({**shared, "layer_types": KINDS, "sliding_window": 1024}) == (0, 24, 1024)
    backwards = {**shared, "layer_types": KINDS[::-1], "sliding_window": 1024}
    assert windows(backwards) == (8, 16, 1024)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"num_attention_heads": 8, "hidden_size": 64}, "num_hidden_layers"),
        ({"num_hidden_layers": 8, "hidden_size": 64}, "num_attention_heads"),
        ({"num_hidden_layers": 8, "num_attention_heads": 8}, "hidden_size"),
        ({"num_hidden_layers": 0, "num_attention_heads": 8, "hidden_size": 64}, "num_hidden_layers"),
        ({"num_hidden_layers": "many", "num_attention_heads": 8, "hidden_size": 64}, "num_hidden_layers"),
        ({**GQA, "kv_lora_rank": 512}, "qk_rope_head_dim"),
        ({**GQA, "layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({**GQA, "layer_types": ["sliding_attention"]}, "sliding_window"),
    ],
)
def test_missing_cache_fields_are_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ArchitectureUnknown, match=named):
        cache_of(config)


def test_projections_that_contradict_the_cache_are_refused() -> None:
    config = {**GQA, "model_type": "new"}
    check_against_tensors(config, cache_of(config), [2048, 2048])
    with pytest.raises(ArchitectureUnknown, match=r"'new' implies 2048 cached numbers.*have 1024"):
        check_against_tensors(config, cache_of(config), [2048, 1024])
    with pytest.raises(ArchitectureUnknown, match="has no key and value projections"):
        check_against_tensors(config, cache_of(config), [])
    # For these, the architecture's entry is the source.
    check_against_tensors({**GQA, "model_type": "phi3"}, cache_of({**GQA, "model_type": "phi3"}), [])


def test_public_models_agree_with_their_projections(
    llama: ModelShape, published_shape: Callable[[str], ModelShape]
) -> None:
    for name in ("google--gemma-3-4b-it", "openai--gpt-oss-20b", "moonshotai--kimi-vl-a3b-instruct"):
        assert model_of(published_shape(name)).cache
    wrong = llama.model_copy(update={"config": {**llama.config, "num_key_value_heads": 4}})
    with pytest.raises(ArchitectureUnknown, match="have 2048"):
        model_of(wrong)
