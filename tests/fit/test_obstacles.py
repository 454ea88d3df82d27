"""Obstacles that make a row impossible whatever the memory; effects of settings and engines on a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.fit import plan
from tasks.fit.catalogue import model_of
from tasks.fit.hardware.gpus import gpu as find_gpu
from tasks.fit.memory.terms import PlannedModel
from tasks.fit.model.parts import Part
from tasks.fit.model.shape import ModelShape, shape_of_config
from tests.fit.fit_support import LLAMA, row
from weighbridge.errors import FitOptionUnknown

UNLISTED = "its memory profile lists no kernel"


@pytest.mark.parametrize(
    ("gpu", "scheme", "asked", "reason"),
    [
        ("B200", "int8", {}, "B200 does not run int8"),
        ("T4", "mxfp4", {}, "T4 does not run mxfp4"),
        ("H100", "q8-0", {}, f"vllm does not serve q8-0: {UNLISTED} gguf"),
        (
            "H100",
            "int8",
            {"engine": "llama-cpp", "version": None},
            f"llama-cpp does not serve int8: {UNLISTED} w8a8_int8",
        ),
        ("H100", "bf16", {"tp": 3}, "TP 3 does not divide 32 attention heads"),
        ("H100", "bf16", {"pp": 33}, "33 stages for 32 layers"),
        ("host", "bf16", {"tp": 2}, "this machine's memory cannot be cut"),
        ("host", "int8-w8a16", {}, "vllm runs int8-w8a16 on GPUs only"),
    ],
)
def test_an_obstacle_means_no_whatever_the_memory(
    model: Callable[[str], PlannedModel], gpu: str, scheme: str, asked: dict[str, Any], reason: str
) -> None:
    found = row(model(LLAMA), gpu, scheme, **asked)
    assert (found.verdict, found.reason) == ("no", reason)


@pytest.mark.parametrize(("features", "reason"), [({"avx512f"}, ""), ({"avx2"}, "processors with avx512f only")])
def test_a_kernel_that_the_processor_lacks_is_an_obstacle(
    model: Callable[[str], PlannedModel], monkeypatch: pytest.MonkeyPatch, features: set[str], reason: str
) -> None:
    monkeypatch.setattr(plan, "processor_features", lambda: features)
    found = row(model(LLAMA), "host", "int4")
    assert reason in found.reason
    assert found.verdict == "no" or not reason


@pytest.mark.parametrize(
    ("fields", "tp", "reason"),
    [
        ({"vocab_size": 64 * 101, "num_attention_heads": 24, "head_dim": 128}, 3, "the vocabulary of 6464"),
        ({"num_attention_heads": 24, "num_key_value_heads": 3, "head_dim": 128}, 2, "3 key-value heads"),
    ],
)
def test_tensor_parallelism_must_divide_heads_and_vocabulary(
    published_config: Callable[[str], dict[str, Any]], fields: dict[str, Any], tp: int, reason: str
) -> None:
    shape = shape_of_config("odd", {**published_config(LLAMA), **fields})
    found = row(model_of(shape), "H100", "bf16", tp=tp)
    assert found.verdict == "no" and reason in found.reason
    assert row(model_of(shape), "H100", "bf16").verdict == "fits"


def test_tensor_parallelism_must_not_split_groups(published_config: Callable[[str], dict[str, Any]]) -> None:
    # Groups of 32 divide 14,368, but not a quarter of it, 3,592.
    shape = shape_of_config("odd", {**published_config(LLAMA), "intermediate_size": 14_368})
    assert row(model_of(shape), "H100", "int4").verdict == "fits"
    found = row(model_of(shape), "H100", "int4", tp=4)
    assert found.verdict == "no" and "TP 4 leaves 3592 columns" in found.reason and "group 32" in found.reason
    assert row(model_of(shape), "H100", "int8", tp=4).verdict == "fits"


def test_a_scheme_without_a_suitable_group_size_names_the_layer(
    published_config: Callable[[str], dict[str, Any]],
) -> None:
    shape = shape_of_config("odd", {**published_config(LLAMA), "intermediate_size": 14_340})
    found = row(model_of(shape), "H100", "int4")
    assert found.verdict == "no" and "down_proj.weight is 14340 wide" in found.reason


def test_a_quantized_release_is_only_served_as_published(published_shape: Callable[[str], ModelShape]) -> None:
    published = model_of(published_shape("redhatai--qwen2.5-7b-instruct-fp8-dynamic"))
    fp8, bf16, int8 = (row(published, "H100", scheme) for scheme in ("fp8", "bf16", "int8"))
    assert fp8.verdict == bf16.verdict == "fits" and fp8.weights_gib == bf16.weights_gib
    assert int8.verdict == "no" and "quantized already (compressed-tensors)" in int8.reason
    # The published scheme must run on the GPU.
    w8a8 = model_of(published_shape("redhatai--qwen2.5-7b-instruct-quantized.w8a8"))
    assert row(w8a8, "B200", "bf16").reason == "B200 does not run int8"


@pytest.mark.parametrize(
    ("asked", "named"), [({"kv_dtype": "fp7"}, "KV dtype called 'fp7'"), ({"dtype": "int3"}, "dtype called 'int3'")]
)
def test_unknown_options_list_the_known_ones(
    model: Callable[[str], PlannedModel], asked: dict[str, Any], named: str
) -> None:
    with pytest.raises(FitOptionUnknown, match=f"{named}.*auto, .*bfloat16"):
        row(model(LLAMA), "H100", "bf16", **asked)


def test_engine_settings_change_their_terms(model: Callable[[str], PlannedModel]) -> None:
    plain = row(model(LLAMA), "L40S", "bf16")
    assert row(model(LLAMA), "L40S", "bf16", kv_dtype="fp8").kv_needed_gib == plain.kv_needed_gib / 2
    assert row(model(LLAMA), "L40S", "bf16", utilization=0.45).capacity_gib == pytest.approx(
        plain.capacity_gib / 2, abs=1e-3
    )
    assert row(model(LLAMA), "L40S", "bf16", max_num_seqs=512).activation_gib > plain.activation_gib
    assert row(model(LLAMA), "L40S", "bf16", max_num_batched_tokens=65_536).activation_gib > plain.activation_gib
    assert row(model(LLAMA), "L40S", "bf16", eager=True).cuda_graph_gib == 0 < plain.cuda_graph_gib
    full = row(model(LLAMA), "L40S", "bf16", dtype="float32")
    assert full.weights_gib == pytest.approx(2 * plain.weights_gib, rel=1e-3)
    assert full.kv_bytes_per_token == 2 * plain.kv_bytes_per_token


def test_the_cache_dtype_does_not_change_a_state(published_config: Callable[[str], dict[str, Any]]) -> None:
    config = {**published_config("state-spaces--mamba-2.8b-hf"), "torch_dtype": "bfloat16"}
    # Written by hand, because laying out Mamba would import torch.
    parts = (Part("backbone.layers.0.mixer.in_proj.weight", (10_240, 2560), "BF16"),)
    mamba = model_of(ModelShape(name="mamba", config=config, parts=parts))
    for kv_dtype in ("auto", "fp8"):
        # 8 requests, 64 layers, 5,120 x (16 + 3) numbers.
        needed = row(mamba, "H100", "bf16", kv_dtype=kv_dtype).kv_needed_gib
        assert needed == pytest.approx(8 * 64 * 97_280 * 2 / 2**30, abs=1e-4)


def test_llama_cpp_allocates_what_the_requests_need(model: Callable[[str], PlannedModel]) -> None:
    found = row(model(LLAMA), "L4", "q4-k-m", engine="llama-cpp", version=None)
    assert found.kv_gib == found.kv_needed_gib == 8.0 and found.capacity_gib == find_gpu("L4").memory_gib
    assert found.verdict == "fits"
    quantized = row(model(LLAMA), "L4", "q4-k-m", engine="llama-cpp", version=None, kv_dtype="q8_0")
    assert quantized.kv_gib == pytest.approx(8 * 8.5 / 16)


def test_tensorrt_llm_takes_a_share_of_what_is_free(model: Callable[[str], PlannedModel]) -> None:
    found = row(model(LLAMA), "H100", "bf16", engine="tensorrt-llm", version=None)
    free = find_gpu("H100").memory_gib - found.weights_gib - found.activation_gib - found.non_torch_gib
    assert found.kv_gib == pytest.approx(0.9 * free, abs=1e-3)


def test_sglang_keeps_activations_outside_its_share(model: Callable[[str], PlannedModel]) -> None:
    found = row(model(LLAMA), "H100", "bf16", engine="sglang", version=None)
    assert found.kv_gib == pytest.approx(found.capacity_gib - found.weights_gib, abs=1e-3)


def test_transformers_unpacks_what_it_serves(published_shape: Callable[[str], ModelShape]) -> None:
    shape = published_shape("qwen--qwen3-0.6b")
    for scheme in ("int8", "int4"):
        found = row(model_of(shape), "host", scheme, engine="transformers", version=None, context=256, concurrency=1)
        assert found.weights_gib == pytest.approx(4 * shape.parameters / 2**30, abs=1e-4)
        assert found.kv_bytes_per_token == 2 * 114_688
