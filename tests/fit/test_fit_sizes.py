"""Bytes of weights and cache against numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from tasks.fit.kv import kv_cost
from tasks.fit.schemes import scheme_size
from tasks.fit.shape import ModelShape, shape_of_folder
from tasks.fit.weights import held_tensors, is_quantized_by_schemes, weights_bytes
from tasks.source.headers import Tensor
from weighbridge.errors import ArchitectureUnknown, SchemeUnknown

# Llama 3.1 8B: 8,030,261,248 numbers, of which the Linear layers of 32 blocks hold 6,979,321,856 in 1,376,256 rows.
LINEAR, ROWS, KEPT_BYTES = 6_979_321_856, 1_376_256, 2 * (8_030_261_248 - 6_979_321_856)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("bf16", 16_060_522_496),
        ("int8", LINEAR + 2 * ROWS + KEPT_BYTES),
        ("fp8", LINEAR + 2 * ROWS + KEPT_BYTES),
        ("int8-w8a16", LINEAR + 2 * ROWS + 16 * 7 * 32 + KEPT_BYTES),
        ("int4", LINEAR // 2 + 2 * LINEAR // 128 + 16 * 7 * 32 + KEPT_BYTES),
    ],
)
def test_llama_8b_weighs_what_it_should(llama: ModelShape, scheme: str, expected: int) -> None:
    assert weights_bytes(llama.tensors, scheme_size(scheme)) == expected


def test_smollm2_is_as_large_as_it_was_when_quantized(make_shape: Any) -> None:
    # Measured: W8A8 163 MB; W4A16 113 MB in groups of 64, because 576 is not divisible by 128.
    shape = make_shape(
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        }
    )
    assert weights_bytes(shape.tensors, scheme_size("int8")) == pytest.approx(163e6, rel=0.005)
    assert weights_bytes(shape.tensors, scheme_size("int4")) == pytest.approx(113e6, rel=0.005)


def test_a_width_that_no_group_divides_is_named(make_shape: Any) -> None:
    shape = make_shape({**tiny.CONFIG, "hidden_size": 100})
    with pytest.raises(ArchitectureUnknown, match=r"q_proj\.weight is 100 wide"):
        weights_bytes(shape.tensors, scheme_size("int4"))


@pytest.mark.parametrize(
    ("name", "shape", "quantized"),
    [
        ("model.layers.0.mlp.gate_proj.weight", (8, 8), True),
        ("model.layers.0.mlp.experts.3.w1.weight", (8, 8), True),
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 8, 8), True),
        ("model.layers.0.mlp.gate.weight", (4, 8), False),
        ("model.layers.0.block_sparse_moe.gate.weight", (4, 8), False),
        ("model.embed_tokens.weight", (99, 8), False),
        ("lm_head.weight", (99, 8), False),
        ("model.norm.weight", (8,), False),
        ("model.layers.0.self_attn.q_proj.bias", (8,), False),
        ("vision_tower.layers.0.mlp.fc1.weight", (8, 8), False),
    ],
)
def test_what_a_scheme_touches(name: str, shape: tuple[int, ...], quantized: bool) -> None:
    assert is_quantized_by_schemes(Tensor(name=name, shape=shape, dtype="BF16")) is quantized


def test_a_tied_head_is_held_once() -> None:
    tensors = [
        Tensor(name=name, shape=(10, 4), dtype="BF16") for name in ("model.embed_tokens.weight", "lm_head.weight")
    ]
    assert len(held_tensors(tensors, {"tie_word_embeddings": True})) == 1
    assert len(held_tensors(tensors, {"tie_word_embeddings": False})) == 2
    assert len(held_tensors(tensors[1:], {"tie_word_embeddings": True})) == 1


def test_an_unknown_scheme_names_those_that_are_known() -> None:
    with pytest.raises(SchemeUnknown, match="int4"):
        scheme_size("int3")


def test_a_folder_is_read_by_its_headers(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "tiny", shards=2)
    shape = shape_of_folder(folder)
    assert {tensor.name: tensor.shape for tensor in shape.tensors} == tiny.shapes(tiny.CONFIG)
    with pytest.raises(ArchitectureUnknown, match=r"config\.json"):
        shape_of_folder(tmp_path)


# --- cache ----------------------------------------------------------------------------------

GQA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}


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
def test_cache_of_a_token(name: str, config: dict[str, Any], expected: int) -> None:
    assert kv_cost(config, 2).bytes_per_token == expected


def test_windowed_layers_stop_growing() -> None:
    types = ["sliding_attention"] * 24 + ["full_attention"] * 8
    cost = kv_cost({**GQA, "layer_types": types, "sliding_window": 1024}, 2)
    per_layer = 131_072 // 32
    assert cost.bytes_per_token == 131_072 and cost.window_tokens == 1024
    assert cost.request_bytes(8192) == per_layer * (8 * 8192 + 24 * 1024)
    assert cost.request_bytes(512) == per_layer * 32 * 512


def test_a_window_that_is_switched_off_or_not_sure_does_not_count() -> None:
    full = kv_cost(GQA, 2)
    assert kv_cost({**GQA, "sliding_window": 4096, "use_sliding_window": False}, 2) == full
    assert kv_cost({**GQA, "sliding_window": 4096, "model_type": "new"}, 2) == full
    assert kv_cost({**GQA, "sliding_window": 4096, "model_type": "mistral"}, 2).full_bytes_per_token == 0


def test_requests_take_whole_blocks() -> None:
    assert kv_cost(GQA, 2).request_bytes(17) == 32 * 131_072


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"num_attention_heads": 8, "hidden_size": 64}, "num_hidden_layers"),
        ({"num_hidden_layers": 8, "hidden_size": 64}, "num_attention_heads"),
        ({"num_hidden_layers": 8, "num_attention_heads": 8}, "hidden_size"),
        ({**GQA, "kv_lora_rank": 512}, "qk_rope_head_dim"),
        ({**GQA, "layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({**GQA, "layer_types": ["sliding_attention"]}, "sliding_window"),
    ],
)
def test_what_is_missing_is_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ArchitectureUnknown, match=named):
        kv_cost(config, 2)


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys, tasks.fit, tasks.fit.report; "
        "print({'torch', 'prefect', 'mlflow', 'huggingface_hub', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
