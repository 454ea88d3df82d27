"""Tensor types by llama.cpp's rules, against its own files of well-known models."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.quantize.gguf.mixture import Structure, kept_reason, tensor_type_of
from tasks.source.gguf.tensor_types import TENSOR_TYPES

LLAMA = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def structure(**changed: object) -> Structure:
    known = {"architecture": "llama", "layers": 32, "experts": 0, "shares_kv_heads": True, "tied": False}
    return Structure(**{**known, **changed})


def types(model: Structure, names: tuple[str, ...] = LLAMA, hidden: int = 4096, base: str = "q4_K") -> Counter[str]:
    """How many tensors of each type a model's matrices become."""
    matrices = [f"blk.{layer}.{name}.weight" for layer in range(model.layers) for name in names]
    ends = ["token_embd.weight", *([] if model.tied else ["output.weight"])]
    return Counter(tensor_type_of(name, hidden, base, model).name for name in (*matrices, *ends))


def test_llama_3_8b_has_the_types_that_llama_cpp_prints() -> None:
    # llama_model_loader of every Meta-Llama-3-8B-Instruct Q4_K_M: q4_K 193 tensors, q6_K 33 (and 65 of f32).
    assert types(structure()) == {"q4_K": 193, "q6_K": 33}


def test_llama_2_70b_spends_more_on_its_shared_values() -> None:
    # llama_model_loader of llama-2-70b Q4_K_M: q4_K 441 tensors, q5_K 40, q6_K 81 (and 161 of f32).
    assert types(structure(layers=80), hidden=8192) == {"q4_K": 441, "q5_K": 40, "q6_K": 81}


def test_mixtral_8x7b_keeps_keys_and_values_at_eight_bits() -> None:
    # llama_model_loader of Mixtral-8x7B Q4_K_M: q8_0 64 tensors, q5_K 32.
    experts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    found = types(structure(experts=8), experts)
    assert (found["q8_0"], found["q5_K"]) == (64, 32)


def test_q5_k_m_and_q6_k_follow_from_their_base_type() -> None:
    # llama.cpp, llama_tensor_get_type_impl: Q5_K_M gives half of values and outputs, and the head, Q6_K; Q6_K all.
    assert types(structure(), base="q5_K") == {"q5_K": 193, "q6_K": 33}
    assert types(structure(), base="q6_K") == {"q6_K": 226}


def test_a_width_of_576_gets_smaller_blocks() -> None:
    smollm2 = structure(layers=30, tied=True)
    assert tensor_type_of("token_embd.weight", 576, "q4_K", smollm2).name == "q8_0"
    assert tensor_type_of("blk.9.ffn_up.weight", 576, "q4_K", smollm2).name == "q5_0"
    assert tensor_type_of("blk.0.attn_v.weight", 576, "q4_K", smollm2).name == "q8_0"
    assert tensor_type_of("blk.0.ffn_down.weight", 1536, "q4_K", smollm2).name == "q6_K"


def test_q8_0_is_one_type() -> None:
    assert tensor_type_of("output.weight", 4096, "q8_0", structure()).name == "q8_0"
    assert tensor_type_of("blk.0.attn_v.weight", 576, "q8_0", structure()).name == "q8_0"


@pytest.mark.parametrize(
    "name, sides",
    [
        ("blk.0.attn_norm.weight", 1),
        ("blk.0.ffn_gate_inp.weight", 2),
        ("blk.0.attn_q.bias", 1),
        ("rope_freqs.weight", 1),
        ("blk.0.attn_q_norm.weight", 2),
    ],
)
def test_tensors_that_llama_cpp_does_not_quantize_have_a_reason(name: str, sides: int) -> None:
    assert kept_reason(name, sides)


@pytest.mark.parametrize("name", ["blk.0.ffn_down_exps.weight", "output.weight", "token_embd.weight"])
def test_matrices_are_quantized(name: str) -> None:
    assert not kept_reason(name, 2)


@settings(deadline=None)
@given(
    name=st.sampled_from([f"blk.3.{name}.weight" for name in LLAMA] + ["output.weight", "token_embd.weight"]),
    columns=st.integers(1, 20_000),
    base=st.sampled_from(["q8_0", "q6_K", "q5_K", "q4_K"]),
    layers=st.integers(4, 120),
    tied=st.booleans(),
    experts=st.sampled_from([0, 8, 64]),
)
def test_rows_are_whole_blocks_whatever_the_width(
    name: str, columns: int, base: str, layers: int, tied: Any, experts: int
) -> None:
    kind = tensor_type_of(name, columns, base, structure(layers=layers, tied=tied, experts=experts))
    assert columns % kind.values == 0
    assert kind.is_quantized == (columns % 32 == 0)
    assert kind.size_bytes((3, columns)) == 3 * columns // kind.values * kind.block_bytes


def test_blocks_are_those_of_the_gguf_package() -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    for kind in TENSOR_TYPES.values():
        assert GGML_QUANT_SIZES[GGMLQuantizationType(kind.number)] == (kind.values, kind.block_bytes)
        assert GGMLQuantizationType(kind.number).name.lower() == kind.name.lower()
