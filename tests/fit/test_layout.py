"""Every known architecture laid out from its config, compared with transformers' modules on the meta device.

The only tests of this folder that import torch: what only transformers knows is here too.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from examples import tiny
from tasks.fit.catalogue import model_of
from tasks.fit.memory.kv import cache_of, kv_bytes_per_token
from tasks.fit.model import from_transformers
from tasks.fit.model.architectures import architecture, known_architectures
from tasks.fit.model.layout import sparse_layer
from tasks.fit.model.shape import ModelShape, shape_of_config, shape_of_folder
from weighbridge.errors import ArchitectureUnknown
from weighbridge.untrusted import Limits, Sandbox


@pytest.fixture(scope="module", autouse=True)
def one_child() -> Iterator[None]:
    """Ask one child process for all layouts of this file: each imports torch and transformers for four seconds."""
    with Sandbox(from_transformers.LIMITS) as sandbox, pytest.MonkeyPatch.context() as patch:

        def call(function: Callable[..., Any], *arguments: Any, limits: Limits) -> Any:
            assert limits == from_transformers.LIMITS
            return sandbox.call(function, *arguments)

        patch.setattr(from_transformers, "call", call)
        yield


SIZES = {
    "hidden_size": 24,
    "intermediate_size": 44,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
}
"""Sizes chosen so that no two dimensions of a tensor are equal."""
EXPERTS = {"moe_intermediate_size": 18, "n_routed_experts": 6, "n_shared_experts": 2, "num_experts_per_tok": 2}
GROUPS = {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 14,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 6,
    "qk_nope_head_dim": 8,
    "v_head_dim": 10,
}
OWN: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 5},
    "qwen2_moe": {"num_experts": 5, "moe_intermediate_size": 18, "shared_expert_intermediate_size": 26},
    "qwen3_moe": {"num_experts": 5, "moe_intermediate_size": 18},
    "gpt_oss": {"num_local_experts": 5},
    "glm4_moe": {**EXPERTS, **GROUPS},
    **{name: {**EXPERTS, **GROUPS, **LATENT} for name in ("deepseek_v2", "deepseek_v3", "kimi_k2")},
}
SWITCHES = ("attention_bias", "attention_out_bias", "mlp_bias", "use_bias", "use_qk_norm", "tie_word_embeddings")
VARIANTS: dict[str, dict[str, Any]] = {
    "silent": {},
    "own head_dim": {"head_dim": 10},
    "all on": {"head_dim": 10, **dict.fromkeys(SWITCHES, True)},
    "all off": {"head_dim": 10, "q_lora_rank": None, **dict.fromkeys(SWITCHES, False)},
}


def kind(name: str) -> str:
    """Category of a tensor; transformers and published checkpoints name tensors differently, and fuse some."""
    if re.search(r"vision", name):
        return "tower"
    if re.search(r"projector|image_newline", name):
        return "projector"
    if ".experts" in name:
        return "experts"
    if re.search(r"embed_tokens|lm_head", name):
        return "embedding"
    if re.search(r"\.(gate|router|shared_expert_gate)\.", name):
        return "router"
    return "norm" if "norm" in name else "sinks" if "sinks" in name else "linear"


def transformers_sizes(config: dict[str, Any], builder: Any = AutoModelForCausalLM) -> Counter[str]:
    # transformers has no class for Kimi K2, whose published code is DeepSeek-V3's.
    model_type = {"kimi_k2": "deepseek_v3"}.get(config["model_type"], config["model_type"])
    plain = {name: value for name, value in config.items() if name != "model_type"}
    with torch.device("meta"):
        model = builder.from_config(AutoConfig.for_model(model_type, **plain))
    # The router's correction is a buffer in transformers, and a tensor in published checkpoints.
    corrections = [(name, buffer) for name, buffer in model.named_buffers() if name.endswith("correction_bias")]
    found: Counter[str] = Counter()
    for name, tensor in [*model.named_parameters(), *corrections]:
        found[kind(name)] += tensor.numel()
    return found


def planned_sizes(shape: ModelShape) -> Counter[str]:
    found: Counter[str] = Counter()
    for part in shape.parts:
        found[kind(part.name)] += part.elements
    return found


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model_type", known_architectures())
def test_known_architectures_match_transformers_tensors(model_type: str, variant: str) -> None:
    config = {"model_type": model_type, **SIZES, **OWN.get(model_type, {}), **VARIANTS[variant]}
    shape = shape_of_config("tiny", config)
    assert shape.origin == "config"
    assert planned_sizes(shape) == transformers_sizes(config)


@pytest.mark.parametrize(
    ("model_type", "fields", "sparse"),
    [
        ("qwen2_moe", {"decoder_sparse_step": 2}, [1, 3]),
        ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [3]}, [1]),
        ("qwen3_moe", {"mlp_only_layers": [0, 2]}, [1, 3]),
        ("glm4_moe", {"first_k_dense_replace": 3, "n_shared_experts": 1}, [3]),
        ("deepseek_v2", {"first_k_dense_replace": 0, "q_lora_rank": None}, [0, 1, 2, 3]),
        ("deepseek_v3", {"first_k_dense_replace": 2}, [2, 3]),
    ],
)
def test_dense_and_sparse_layers_of_a_mixture(model_type: str, fields: dict[str, Any], sparse: list[int]) -> None:
    config = {"model_type": model_type, **SIZES, **OWN[model_type], **fields}
    shape = shape_of_config("tiny", config)
    assert [layer for layer in range(4) if sparse_layer(shape.text, layer)] == sparse
    assert planned_sizes(shape) == transformers_sizes(config)


@pytest.mark.parametrize("model_type", [name for name in known_architectures() if name != "kimi_k2"])
def test_defaults_match_transformers_class(model_type: str) -> None:
    known = architecture(model_type)
    assert known
    built = AutoConfig.for_model(model_type)
    assert known.defaults == {name: getattr(built, name) for name in known.defaults}


@pytest.mark.parametrize(
    "model_type",
    ["mistral", "ministral3", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "starcoder2", "mixtral", "gpt_oss"],
)
def test_windowed_layers_match_transformers(model_type: str) -> None:
    config = {**SIZES, "num_hidden_layers": 13, **OWN.get(model_type, {}), "sliding_window": 64}
    config |= {"use_sliding_window": True, "max_window_layers": 3} if model_type.startswith("qwen") else {}
    built = AutoConfig.for_model(model_type, **config)
    # If a class lists no layer types, every layer has the window.
    kinds = getattr(built, "layer_types", None) or ["sliding_attention"] * 13
    (window,) = [layers for layers in cache_of({"model_type": model_type, **config}) if layers.kind == "window"]
    assert (window.layers, window.window) == (kinds.count("sliding_attention"), 64)


VISION = {
    "hidden_size": 20,
    "intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
CLIP = {**VISION, "model_type": "clip_vision_model"}
PIXTRAL = {**VISION, "model_type": "pixtral", "head_dim": 5}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("model_type", "text_type", "vision", "fields"),
    [
        ("gemma3", "gemma3_text", SIGLIP, {}),
        ("llava", "llama", CLIP, {}),
        ("llava", "llama", CLIP, {"multimodal_projector_bias": False}),
        ("llava", "mistral", PIXTRAL, {}),
        ("llava_next", "mistral", CLIP, {}),
        ("llava_next", "granite", SIGLIP, {"vision_feature_layer": [-3, -2, -1]}),
        ("mistral3", "mistral", PIXTRAL, {"spatial_merge_size": 2}),
        ("mistral3", "mistral", PIXTRAL, {"spatial_merge_size": 2, "multimodal_projector_bias": True}),
    ],
)
def test_towers_match_transformers_tensors(
    model_type: str, text_type: str, vision: dict[str, Any], fields: dict[str, Any], tied: bool
) -> None:
    # Both levels state whether the head is tied: transformers' composite classes have their own defaults.
    text = {**SIZES, "head_dim": 10, "model_type": text_type, "tie_word_embeddings": tied}
    config = {"model_type": model_type, "text_config": text, "vision_config": vision, "tie_word_embeddings": tied}
    shape = shape_of_config("tiny", {**config, **fields})
    assert shape.origin == "config"
    assert planned_sizes(shape) == transformers_sizes({**config, **fields}, AutoModelForImageTextToText)
    assert not any(part.is_linear for part in shape.parts if kind(part.name) in ("tower", "projector"))


# --- architectures that only transformers knows -----------------------------------------------------------

STABLELM = {"model_type": "stablelm", **SIZES, "tie_word_embeddings": False}
OLMOE = {"model_type": "olmoe", **SIZES, "num_experts": 5, "num_experts_per_tok": 2}


@pytest.mark.parametrize("config", [STABLELM, OLMOE], ids=["stablelm", "olmoe"])
def test_unlisted_architectures_are_laid_out_by_transformers(config: dict[str, Any]) -> None:
    shape = shape_of_config("tiny", config)
    assert shape.origin == "transformers"
    assert planned_sizes(shape) == transformers_sizes(config)
    assert model_of(shape).cache[0].numbers_per_token == 2 * 2 * 6
    if "num_experts" in config:
        # Fused by transformers: gate and up in one matrix, of all experts.
        assert planned_sizes(shape)["experts"] == 4 * 5 * 3 * 24 * 44
        assert shape.active_parameters == shape.parameters - 4 * 3 * 3 * 24 * 44


def test_a_cached_layout_needs_no_torch() -> None:
    first = shape_of_config("tiny", STABLELM)
    code = (
        "import sys; from tasks.fit.model.shape import shape_of_config; "
        f"shape = shape_of_config('tiny', {STABLELM!r}); print(shape.parameters, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(first.parameters), "False"]


def test_a_config_that_transformers_cannot_build_is_refused_with_its_reason() -> None:
    with pytest.raises(ArchitectureUnknown, match=r"stablelm.*builds no model.*divisible"):
        shape_of_config("tiny", {**STABLELM, "hidden_size": 25})


def test_an_incomplete_config_is_completed_by_transformers_class() -> None:
    silent = {name: value for name, value in STABLELM.items() if name != "num_key_value_heads"}
    shape = shape_of_config("tiny", {**silent, "hidden_size": 64, "num_attention_heads": 32})
    # The default of StableLmConfig, not one for every attention head.
    assert shape.text["num_key_value_heads"] == AutoConfig.for_model("stablelm").num_key_value_heads


# --- unknown architectures are refused, never guessed ---------------------------------------------


@pytest.mark.parametrize("model_type", ["brand_new", None])
@pytest.mark.parametrize("headers", [True, False])
def test_an_unknown_model_type_is_refused_by_name(tmp_path: Path, model_type: str | None, headers: bool) -> None:
    folder = tiny.build(tmp_path / "new", model_type=model_type)
    if not headers:
        (folder / "model.safetensors").unlink()
    if model_type is None:
        config = {name: value for name, value in tiny.CONFIG.items() if name != "model_type"}
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArchitectureUnknown, match="'brand_new'" if model_type else "no `model_type`") as refused:
        shape_of_folder(folder)
    assert "architectures.yaml" in refused.value.next_step


# An architecture that only transformers knows; its tensors contradict its config.
STRANGE = {**STABLELM, "architectures": ["StableLmForCausalLM"]}


@pytest.mark.parametrize(
    ("keys", "named"), [(12, None), (18, r"'stablelm' implies 24 cached numbers.*have 36"), (0, "has no key and value")]
)
def test_projections_that_contradict_a_config_are_refused(tmp_path: Path, keys: int, named: str | None) -> None:
    tensors = {"model.embed_tokens.weight": (101, 24), "lm_head.weight": (101, 24)}
    for layer in range(4):
        names = ("k_proj", "v_proj") if keys else ("mixed",)
        tensors |= {f"model.layers.{layer}.self_attn.{name}.weight": (keys or 24, 24) for name in names}
    (tmp_path / "config.json").write_text(json.dumps(STRANGE))
    tiny.write_safetensors(tmp_path / "model.safetensors", tensors, random.Random(0))
    shape = shape_of_folder(tmp_path)
    assert shape.origin == "headers"
    if named is None:
        assert model_of(shape).cache
        return
    with pytest.raises(ArchitectureUnknown, match=named):
        model_of(shape)


def test_an_incomplete_text_config_takes_its_class_defaults() -> None:
    # As llava-v1.6-mistral-7b is published: neither hidden_size nor the eight key-value heads are in the file.
    config = {
        "model_type": "llava_next",
        "text_config": {"model_type": "mistral", "vocab_size": 32064, "intermediate_size": 14336},
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    }
    shape = shape_of_config("llava", config)
    assert kv_bytes_per_token(cache_of(shape.config), 2, 1) == 32 * 8 * 128 * 2 * 2
    assert shape.parameters == pytest.approx(7.57e9, rel=0.001)
