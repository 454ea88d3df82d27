"""Weights cut by tensor and pipeline parallelism: the shares add up to the whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import tiny
from tasks.fit.memory.weights import Stage, Weights, stages
from tasks.fit.model.shape import ModelShape, shape_of_config
from tasks.schemes import scheme as find_scheme

TINY = {**tiny.CONFIG, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16}
"""128 wide, 256 inside, 64 rows of keys, 512 words, tied."""


def total(config: dict[str, Any], scheme: str) -> int:
    return Weights(shape_of_config("by hand", config)).total_bytes(find_scheme(scheme))


@pytest.mark.parametrize("scheme", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_shares_add_up_to_the_whole_plus_repeated_tensors(scheme: str, tp: int) -> None:
    config = {**TINY, "tie_word_embeddings": False}
    weights, size = Weights(shape_of_config("tiny", config)), find_scheme(scheme)
    whole = Stage(0, 4, True, True)
    # Norms on every GPU; keys and values, 4 heads, twice on 8 GPUs.
    repeated = (tp - 1) * 9 * 128 * 2
    bits = {"bf16": 16, "int8": 8, "int4": 4}[scheme]
    group = weights.group_size(size)
    scales = 0 if scheme == "bf16" else (128 // group if group else 1) * 2 * 64
    keys = 4 * 2 * (128 * 64 * bits // 8 + scales + (16 if scheme == "int4" else 0))
    repeated += keys if tp == 8 else 0
    assert weights.gpu_bytes(size, tp, whole) * tp == pytest.approx(weights.total_bytes(size) + repeated, abs=tp)


def test_latent_projections_and_routers_are_on_every_gpu(published_shape: Callable[[str], ModelShape]) -> None:
    shape = published_shape("deepseek-ai--deepseek-v2-lite")
    kept = re_sum(shape, ("kv_a_proj_with_mqa", "kv_a_layernorm", ".mlp.gate.", "norm0", "norm1", "model.norm"))
    weights, whole = Weights(shape), Stage(0, shape.layers, True, True)
    parts = 4 * weights.gpu_bytes(find_scheme("bf16"), 4, whole)
    assert parts == pytest.approx(2 * (shape.parameters + 3 * kept), abs=4)


def re_sum(shape: ModelShape, names: tuple[str, ...]) -> int:
    return sum(part.elements for part in shape.parts if any(name in part.name for name in names))


@pytest.mark.parametrize(
    ("layers", "pp", "counts"),
    [
        (32, 1, [32]),
        (32, 4, [8, 8, 8, 8]),
        # vLLM gives an extra layer to the stages before the last, which has the head.
        (30, 4, [7, 8, 8, 7]),
        (61, 8, [7, 7, 8, 8, 8, 8, 8, 7]),
        (5, 2, [3, 2]),
    ],
)
def test_leftover_layers_go_to_the_stages_before_the_last(layers: int, pp: int, counts: list[int]) -> None:
    split = stages(layers, pp)
    assert [stage.end_layer - stage.first_layer for stage in split] == counts
    assert [stage.has_embedding for stage in split] == [True] + [False] * (pp - 1)
    assert [stage.has_head for stage in split] == [False] * (pp - 1) + [True]


@settings(deadline=None)
@given(st.integers(1, 130), st.integers(1, 16))
def test_stages_hold_every_layer_once(layers: int, pp: int) -> None:
    split = stages(layers, min(pp, layers))
    assert split[0].first_layer == 0 and split[-1].end_layer == layers
    assert all(stage.end_layer == following.first_layer for stage, following in itertools.pairwise(split))
    assert max(stage.end_layer - stage.first_layer for stage in split) - layers // len(split) <= 1


@pytest.mark.parametrize("tied", [True, False])
def test_stages_add_up_to_the_whole_plus_a_second_tied_head(tied: bool) -> None:
    weights = Weights(shape_of_config("tiny", {**TINY, "tie_word_embeddings": tied}))
    size, embedding = find_scheme("int8"), 2 * 512 * 128
    parts = [weights.gpu_bytes(size, 1, stage) for stage in stages(4, 3)]
    # The last stage uses the tied embedding as its head, so it holds a second copy.
    assert sum(parts) == weights.total_bytes(size) + (embedding if tied else 0)
    layer = 147_456 + 2 * 1024 + 2 * 256
    assert parts == [layer + embedding, 2 * layer, layer + 256 + embedding]


def test_the_vocabulary_is_padded_as_engines_do() -> None:
    # vLLM pads it to a multiple of 64: 100 words become 128.
    assert total({**TINY, "vocab_size": 100}, "bf16") == total({**TINY, "vocab_size": 128}, "bf16")


def test_tensor_parallelism_must_not_split_groups() -> None:
    weights = Weights(shape_of_config("tiny", TINY))
    # int4 uses groups of 128 here, so o_proj's 128 columns cannot be halved.
    assert "TP 2 leaves 64 columns" in weights.group_split_reason(find_scheme("int4"), 2)
    assert (
        weights.group_split_reason(find_scheme("int4"), 1) == weights.group_split_reason(find_scheme("int8"), 8) == ""
    )
