"""Bytes of weights under every scheme and parallelism, against numbers computed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from tasks.fit.memory.gguf_sizes import BLOCKS, gguf_bytes, more_bits
from tasks.fit.memory.weights import Weights
from tasks.fit.model.parts import Part, loaded_parts, parts_of
from tasks.fit.model.shape import ModelShape, shape_of_config, shape_of_folder
from tasks.schemes import GgufMixture, all_schemes
from tasks.schemes import scheme as find_scheme
from tasks.source.headers import Tensor
from weighbridge.errors import ArchitectureUnknown, SchemeUnknown

# Llama 3.1 8B: 8,030,261,248 numbers, of which the Linear layers of 32 blocks hold 6,979,321,856 in 1,376,256 rows.
LINEAR, ROWS, KEPT_BYTES = 6_979_321_856, 1_376_256, 2 * (8_030_261_248 - 6_979_321_856)
SMOLLM2 = {
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
TINY = {**tiny.CONFIG, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16}
"""128 wide, 256 inside, 64 rows of keys, 512 words, tied."""


def mixture_of(scheme: str) -> GgufMixture:
    mixture = find_scheme(scheme).gguf
    assert mixture
    return mixture


def total(config: dict[str, Any], scheme: str) -> int:
    return Weights(shape_of_config("by hand", config)).total_bytes(find_scheme(scheme))


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("bf16", 16_060_522_496),
        ("int8", LINEAR + 2 * ROWS + KEPT_BYTES),
        ("fp8", LINEAR + 2 * ROWS + KEPT_BYTES),
        ("int8-w8a16", LINEAR + 2 * ROWS + 16 * 7 * 32 + KEPT_BYTES),
        ("int4", LINEAR // 2 + 2 * LINEAR // 128 + 16 * 7 * 32 + KEPT_BYTES),
        ("mxfp4", LINEAR // 2 + LINEAR // 32 + KEPT_BYTES),
    ],
)
def test_llama_8b_has_the_expected_size(llama: ModelShape, scheme: str, expected: int) -> None:
    assert Weights(llama).total_bytes(find_scheme(scheme)) == expected


def test_smollm2_matches_its_measured_artifacts() -> None:
    # Measured: W8A8 163 MB; W4A16 113 MB in groups of 64, because 576 is not divisible by 128.
    assert total(SMOLLM2, "int8") == pytest.approx(163e6, rel=0.005)
    assert total(SMOLLM2, "int4") == pytest.approx(113e6, rel=0.005)


def test_a_layer_width_without_a_group_size_is_named() -> None:
    with pytest.raises(ArchitectureUnknown, match=r"q_proj\.weight is 100 wide \(tried 128, 64, 32\)"):
        total({**TINY, "hidden_size": 100}, "int4")
    assert total({**TINY, "hidden_size": 100}, "int8")


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(SchemeUnknown, match="int4"):
        find_scheme("int3")


@pytest.mark.parametrize(
    ("name", "shape", "quantized"),
    [
        ("model.layers.0.mlp.gate_proj.weight", (8, 8), True),
        ("model.layers.0.mlp.experts.3.w1.weight", (8, 8), True),
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 8, 8), True),
        ("model.layers.0.mlp.gate.weight", (4, 8), False),
        ("model.layers.0.mlp.router.weight", (4, 8), False),
        ("model.layers.0.mlp.shared_expert_gate.weight", (1, 8), False),
        ("model.layers.0.block_sparse_moe.gate.weight", (4, 8), False),
        ("model.layers.0.mixer.conv1d.weight", (8, 1, 4), False),
        ("model.embed_tokens.weight", (99, 8), False),
        ("transformer.wte.weight", (99, 8), False),
        ("lm_head.weight", (99, 8), False),
        ("model.norm.weight", (8,), False),
        ("model.layers.0.self_attn.q_proj.bias", (8,), False),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", (4, 8), False),
        ("vision_tower.layers.0.mlp.fc1.weight", (8, 8), False),
        ("multi_modal_projector.linear_1.weight", (8, 8), False),
    ],
)
def test_tensors_that_a_scheme_quantizes(name: str, shape: tuple[int, ...], quantized: bool) -> None:
    (part,) = parts_of([Tensor(name=name, shape=shape, dtype="BF16")])
    assert part.is_linear is quantized


def test_a_tied_head_counts_once() -> None:
    both = [Part(name, (10, 4), "BF16") for name in ("model.embed_tokens.weight", "lm_head.weight")]
    assert [part.name for part in loaded_parts(both, tied=True, layers=None)] == ["model.embed_tokens.weight"]
    assert len(loaded_parts(both, tied=False, layers=None)) == 2
    assert len(loaded_parts(both[1:], tied=True, layers=None)) == 1


def test_multi_token_prediction_layers_are_left_out() -> None:
    names = [f"model.layers.{layer}.self_attn.o_proj.weight" for layer in (0, 60, 61)]
    parts = [Part(name, (8, 8), "BF16") for name in names]
    assert len(loaded_parts(parts, tied=False, layers=61)) == 2
    # A tower numbers its own layers.
    tower = [Part("vision_tower.layers.80.fc1.weight", (8, 8), "BF16")]
    assert len(loaded_parts(tower, tied=False, layers=61)) == 1


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": False}, {"num_hidden_layers": 3, "vocab_size": 100}])
def test_headers_and_config_give_the_same_size(tmp_path: Path, config: dict[str, Any]) -> None:
    from_headers = shape_of_folder(tiny.build(tmp_path / "tiny", shards=2, **config))
    from_config = shape_of_config("tiny", {**tiny.CONFIG, **config})
    assert (from_headers.origin, from_config.origin) == ("headers", "config")
    for size in all_schemes():
        assert Weights(from_headers).total_bytes(size) == Weights(from_config).total_bytes(size)
    assert from_headers.parameters == sum(math.prod(sides) for sides in tiny.shapes(from_headers.config).values())


def test_a_folder_without_a_usable_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureUnknown, match=r"config\.json"):
        shape_of_folder(tmp_path)
    for broken in ("{", "[]", ""):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(ArchitectureUnknown, match=r"config\.json"):
            shape_of_folder(tmp_path)


# --- llama.cpp ------------------------------------------------------------------------------


def test_gguf_blocks_match_the_gguf_package() -> None:
    from gguf import GGML_QUANT_SIZES

    known = {kind.name.lower(): (size, numbers) for kind, (numbers, size) in GGML_QUANT_SIZES.items()}
    assert {name: known[name] for name in BLOCKS} == BLOCKS


@pytest.mark.parametrize("sides", [(3, 576), (5, 1536), (1, 4096)])
def test_q8_0_size_matches_the_gguf_package(sides: tuple[int, int], llama: ModelShape) -> None:
    import numpy
    from gguf import GGMLQuantizationType, quants

    written = quants.quantize(numpy.ones(sides, numpy.float32), GGMLQuantizationType.Q8_0)
    assert gguf_bytes("model.layers.0.mlp.up_proj.weight", sides, mixture_of("q8-0"), llama) == written.nbytes


def test_llama_8b_matches_llama_cpp_bits_per_weight(llama: ModelShape) -> None:
    # llama.cpp, tools/quantize/README.md, Llama 3.1 8B: 4.8944 and 8.5008 bits per weight.
    for scheme, bits in (("q4-k-m", 4.8944), ("q8-0", 8.5008)):
        size = Weights(llama).total_bytes(find_scheme(scheme))
        assert size * 8 / llama.parameters == pytest.approx(bits, abs=5e-5)


def test_q4_k_m_gives_some_layers_more_bits(llama: ModelShape) -> None:
    # Of 32 layers the first and last four, and every third between: 6, 9, … 27.
    chosen = [layer for layer in range(32) if more_bits(layer, 32)]
    assert chosen == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    row = {"q4_k": 144 * 16, "q6_k": 210 * 16}

    def bytes_of(name: str) -> float:
        return gguf_bytes(name, (1, 4096), mixture_of("q4-k-m"), llama)

    for layer, kind in ((4, "q4_k"), (6, "q6_k")):
        assert bytes_of(f"model.layers.{layer}.self_attn.v_proj.weight") == row[kind]
        assert bytes_of(f"model.layers.{layer}.mlp.down_proj.weight") == row[kind]
        assert bytes_of(f"model.layers.{layer}.self_attn.k_proj.weight") == row["q4_k"]
    assert bytes_of("lm_head.weight") == row["q6_k"]
    assert bytes_of("model.embed_tokens.weight") == row["q4_k"]
    assert bytes_of("model.layers.0.mlp.gate.weight") == 4 * 4096


def test_widths_not_divisible_by_256_use_smaller_blocks() -> None:
    shape = shape_of_config("smollm2", SMOLLM2)

    def bytes_of(name: str, width: int) -> float:
        return gguf_bytes(name, (1, width), mixture_of("q4-k-m"), shape)

    # 576 is 18 blocks of 32: Q5_0 for Q4_K, Q8_0 for Q6_K; 1,536 is 6 of 256.
    assert bytes_of("model.layers.9.mlp.up_proj.weight", 576) == 18 * 22
    assert bytes_of("model.embed_tokens.weight", 576) == 18 * 34
    assert bytes_of("model.layers.0.mlp.down_proj.weight", 1536) == 6 * 210
    # By hand, 30 layers: 14 of them with more (0 to 2, 26 to 29, and 5, 8, … 23).
    more = [layer for layer in range(30) if more_bits(layer, 30)]
    assert len(more) == 14
    narrow = 30 * (576 + 192 + 576 + 2 * 1536) * 18 * 22 + (14 * 34 + 16 * 22) * 192 * 18
    down = 576 * 6 * (14 * 210 + 16 * 144)
    assert total(SMOLLM2, "q4-k-m") == narrow + down + 49152 * 18 * 34 + 61 * 576 * 4
