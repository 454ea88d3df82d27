"""Sizes derived from public models' configs, against the figures in their publishers' files."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasks.fit.memory.weights import Weights
from tasks.fit.model.shape import ModelShape
from tasks.schemes import scheme as find_scheme

# Half of `total_size` in the public model.safetensors.index.json; of Qwen3-8B half of the bytes named in public code.
PARAMETERS = {
    "meta-llama--llama-3.1-8b-instruct": 16_060_522_496 // 2,
    "qwen--qwen2.5-7b-instruct": 15_231_233_024 // 2,
    "qwen--qwen3-4b": 8_044_936_192 // 2,
    "qwen--qwen3-8b": 16_381_470_720 // 2,
    "qwen--qwen3-30b-a3b": 61_064_245_248 // 2,
    "google--gemma-2-2b-it": 5_228_683_776 // 2,
    "google--gemma-2-9b-it": 18_483_411_968 // 2,
    "google--gemma-3-4b-it": 8_600_158_944 // 2,
    "google--gemma-3-27b-it": 54_864_813_280 // 2,
    "microsoft--phi-4": 29_319_014_400 // 2,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_of_public_models(published_shape: Callable[[str], ModelShape], name: str) -> None:
    shape = published_shape(name)
    assert (shape.origin, shape.parameters) == ("config", PARAMETERS[name])
    assert sum(part.size_bytes for part in shape.parts) == 2 * PARAMETERS[name]


def test_kimi_vl_counts_its_vision_tower(published_shape: Callable[[str], ModelShape]) -> None:
    shape = published_shape("moonshotai--kimi-vl-a3b-instruct")
    # Named in two public files; this config lays out 1,728 numbers less.
    assert shape.origin == "config"
    assert shape.parameters == pytest.approx(16_407_657_776, rel=3e-7)
    # Its paper (arXiv 2504.07491) counts 2.8 billion activated, without the tower.
    tower = sum(part.elements for part in shape.parts if part.is_tower)
    assert (shape.active_parameters - tower) / 1e9 == pytest.approx(2.8, abs=0.2)


@pytest.mark.parametrize(
    ("name", "size_bytes", "parameters"),
    [
        # total_size in the public index file, and tensor bytes in public code
        ("openai--gpt-oss-20b", 13_761_264_768, 20_914_757_184),
        ("openai--gpt-oss-120b", 65_248_815_744, 116_829_156_672),
    ],
)
def test_mxfp4_releases_match_to_the_byte(
    published_shape: Callable[[str], ModelShape], name: str, size_bytes: int, parameters: int
) -> None:
    shape = published_shape(name)
    assert shape.parameters == parameters
    weights = Weights(shape)
    assert weights.published and weights.published.name == "mxfp4"
    # Its size does not depend on the requested scheme.
    assert {weights.total_bytes(find_scheme(scheme)) for scheme in ("bf16", "mxfp4", "int4")} == {size_bytes}


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("qwen--qwen3-30b-a3b", 3.3e9),  # model card: 30.5B in total and 3.3B activated
        ("openai--gpt-oss-120b", 5.1e9),  # model card: 5.1B active
        ("openai--gpt-oss-20b", 3.6e9),  # model card: 3.6B active
        ("deepseek-ai--deepseek-v3", 37e9),  # model card: 671B total, 37B activated
        ("mistralai--mixtral-8x7b-instruct-v0.1", 12.9e9),  # arXiv 2401.04088: 13B active
    ],
)
def test_active_parameter_counts_of_mixtures(
    published_shape: Callable[[str], ModelShape], name: str, active: float
) -> None:
    shape = published_shape(name)
    # Publishers count with or without the embedding of the input.
    embedding = next(part.elements for part in shape.parts if "embed_tokens" in part.name)
    assert shape.active_parameters - embedding - 0.05 * active < active < shape.active_parameters + 0.05 * active
    assert shape.has_experts


def test_a_dense_model_uses_all_its_parameters(llama: ModelShape) -> None:
    assert llama.active_parameters == llama.parameters and not llama.has_experts
