"""Bytes of weights under every scheme and cut, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import tiny
from tasks.fit.gguf import BLOCKS, gguf_bytes, more_bits
from tasks.fit.pieces import Piece, held, pieces_of
from tasks.fit.schemes import published_scheme, scheme_names, scheme_size
from tasks.fit.shape import ModelShape, shape_of_config, shape_of_folder
from tasks.fit.weights import Stage, Weights, stages
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


def total(config: dict[str, Any], scheme: str) -> int:
    return Weights(shape_of_config("by hand", config)).total_bytes(scheme_size(scheme))


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
def test_llama_8b_weighs_what_it_should(llama: ModelShape, scheme: str, expected: int) -> None:
    assert Weights(llama).total_bytes(scheme_size(scheme)) == expected


def test_smollm2_is_as_large_as_it_was_when_quantized() -> None:
    # Measured: W8A8 163 MB; W4A16 113 MB in groups of 64, because 576 is not divisible by 128.
    assert total(SMOLLM2, "int8") == pytest.approx(163e6, rel=0.005)
    assert total(SMOLLM2, "int4") == pytest.approx(113e6, rel=0.005)


def test_a_width_that_no_group_divides_is_named() -> None:
    with pytest.raises(ArchitectureUnknown, match=r"q_proj\.weight is 100 wide \(tried 128, 64, 32\)"):
        total({**TINY, "hidden_size": 100}, "int4")
    assert total({**TINY, "hidden_size": 100}, "int8")


def test_an_unknown_scheme_names_those_that_are_known() -> None:
    with pytest.raises(SchemeUnknown, match="int4"):
        scheme_size("int3")


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
def test_what_a_scheme_touches(name: str, shape: tuple[int, ...], quantized: bool) -> None:
    (piece,) = pieces_of([Tensor(name=name, shape=shape, dtype="BF16")])
    assert piece.is_linear is quantized


def test_a_tied_head_is_held_once() -> None:
    both = [Piece(name, (10, 4), "BF16") for name in ("model.embed_tokens.weight", "lm_head.weight")]
    assert [piece.name for piece in held(both, tied=True, layers=None)] == ["model.embed_tokens.weight"]
    assert len(held(both, tied=False, layers=None)) == 2
    assert len(held(both[1:], tied=True, layers=None)) == 1


def test_a_layer_that_predicts_further_tokens_is_left_out() -> None:
    names = [f"model.layers.{layer}.self_attn.o_proj.weight" for layer in (0, 60, 61)]
    pieces = [Piece(name, (8, 8), "BF16") for name in names]
    assert len(held(pieces, tied=False, layers=61)) == 2
    # A tower counts its layers itself.
    tower = [Piece("vision_tower.layers.80.fc1.weight", (8, 8), "BF16")]
    assert len(held(tower, tied=False, layers=61)) == 1


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": False}, {"num_hidden_layers": 3, "vocab_size": 100}])
def test_headers_and_config_alone_weigh_the_same(tmp_path: Path, config: dict[str, Any]) -> None:
    from_headers = shape_of_folder(tiny.build(tmp_path / "tiny", shards=2, **config))
    from_config = shape_of_config("tiny", {**tiny.CONFIG, **config})
    assert (from_headers.origin, from_config.origin) == ("headers", "config")
    for scheme in scheme_names():
        size = scheme_size(scheme)
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


def test_blocks_are_those_of_the_gguf_package() -> None:
    from gguf import GGML_QUANT_SIZES

    known = {kind.name.lower(): (size, numbers) for kind, (numbers, size) in GGML_QUANT_SIZES.items()}
    assert {name: known[name] for name in BLOCKS} == BLOCKS


@pytest.mark.parametrize("sides", [(3, 576), (5, 1536), (1, 4096)])
def test_q8_0_is_as_large_as_what_the_gguf_package_writes(sides: tuple[int, int], llama: ModelShape) -> None:
    import numpy
    from gguf import GGMLQuantizationType, quants

    written = quants.quantize(numpy.ones(sides, numpy.float32), GGMLQuantizationType.Q8_0)
    assert gguf_bytes("model.layers.0.mlp.up_proj.weight", sides, "gguf-q8_0", llama) == written.nbytes


def test_llama_8b_has_llama_cpps_bits_per_weight(llama: ModelShape) -> None:
    # llama.cpp, tools/quantize/README.md, Llama 3.1 8B: 4.8944 and 8.5008 bits per weight.
    for scheme, bits in (("gguf-q4_k_m", 4.8944), ("gguf-q8_0", 8.5008)):
        size = Weights(llama).total_bytes(scheme_size(scheme))
        assert size * 8 / llama.parameters == pytest.approx(bits, abs=5e-5)


def test_q4_k_m_spends_more_on_some_layers(llama: ModelShape) -> None:
    # Of 32 layers the first and last four, and every third between: 6, 9, … 27.
    chosen = [layer for layer in range(32) if more_bits(layer, 32)]
    assert chosen == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    row = {"q4_k": 144 * 16, "q6_k": 210 * 16}

    def bytes_of(name: str) -> float:
        return gguf_bytes(name, (1, 4096), "gguf-q4_k_m", llama)

    for layer, kind in ((4, "q4_k"), (6, "q6_k")):
        assert bytes_of(f"model.layers.{layer}.self_attn.v_proj.weight") == row[kind]
        assert bytes_of(f"model.layers.{layer}.mlp.down_proj.weight") == row[kind]
        assert bytes_of(f"model.layers.{layer}.self_attn.k_proj.weight") == row["q4_k"]
    assert bytes_of("lm_head.weight") == row["q6_k"]
    assert bytes_of("model.embed_tokens.weight") == row["q4_k"]
    assert bytes_of("model.layers.0.mlp.gate.weight") == 4 * 4096


def test_rows_that_are_no_multiple_of_256_get_smaller_blocks() -> None:
    shape = shape_of_config("smollm2", SMOLLM2)

    def bytes_of(name: str, width: int) -> float:
        return gguf_bytes(name, (1, width), "gguf-q4_k_m", shape)

    # 576 is 18 blocks of 32: Q5_0 for Q4_K, Q8_0 for Q6_K; 1,536 is 6 of 256.
    assert bytes_of("model.layers.9.mlp.up_proj.weight", 576) == 18 * 22
    assert bytes_of("model.embed_tokens.weight", 576) == 18 * 34
    assert bytes_of("model.layers.0.mlp.down_proj.weight", 1536) == 6 * 210
    # By hand, 30 layers: 14 of them with more (0 to 2, 26 to 29, and 5, 8, … 23).
    more = [layer for layer in range(30) if more_bits(layer, 30)]
    assert len(more) == 14
    narrow = 30 * (576 + 192 + 576 + 2 * 1536) * 18 * 22 + (14 * 34 + 16 * 22) * 192 * 18
    down = 576 * 6 * (14 * 210 + 16 * 144)
    assert total(SMOLLM2, "gguf-q4_k_m") == narrow + down + 49152 * 18 * 34 + 61 * 576 * 4


# --- releases that are quantized already ----------------------------------------------------


def compressed(bits: int, kind: str, activations: bool, **weights: Any) -> dict[str, Any]:
    group: dict[str, Any] = {"weights": {"num_bits": bits, "type": kind, **weights}}
    group["input_activations"] = {"num_bits": bits} if activations else None
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


@pytest.mark.parametrize(
    ("found", "name", "fields"),
    [
        (compressed(8, "float", True, strategy="channel"), "fp8", {}),
        (
            compressed(8, "float", True, strategy="block", block_structure=[128, 128]),
            "fp8",
            {"block": (128, 128)},
        ),
        (compressed(8, "int", True, strategy="channel"), "int8", {}),
        (compressed(8, "int", False, strategy="channel"), "int8-w8a16", {"packed": True}),
        (compressed(4, "int", False, strategy="group", group_size=32), "int4", {"group_sizes": (32,)}),
        (compressed(4, "int", False, group_size=128, symmetric=False), "int4", {"zero_points": True}),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4", {"group_sizes": (128,)}),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": False}, "int8-w8a16", {"zero_points": True}),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4", {"group_sizes": (64,), "zero_points": True}),
        ({"quant_method": "fp8"}, "fp8", {"block": None}),
        ({"quant_method": "fp8", "weight_block_size": [128, 64]}, "fp8", {"block": (128, 64)}),
        ({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, "mxfp4", {"kept": ("lm_head",)}),
    ],
)
def test_a_published_scheme_is_read(found: dict[str, Any], name: str, fields: dict[str, Any]) -> None:
    scheme = published_scheme({"quantization_config": found})
    assert scheme and scheme.name == name
    assert {field: getattr(scheme, field) for field in fields} == fields


@pytest.mark.parametrize(
    ("found", "named"),
    [({"quant_method": "bitsandbytes"}, "bitsandbytes"), (compressed(3, "int", False), "3 bits, int"), ({}, "None")],
)
def test_an_unknown_method_is_refused_by_name(found: dict[str, Any], named: str) -> None:
    with pytest.raises(ArchitectureUnknown, match=named):
        published_scheme({"quantization_config": found})
    assert published_scheme({}) is None


def test_the_files_say_what_an_unknown_method_weighs(tmp_path: Path) -> None:
    found = {"quant_method": "bitsandbytes"}
    from_headers = Weights(shape_of_folder(tiny.build(tmp_path / "tiny", quantization_config=found)))
    assert from_headers.published is None
    assert from_headers.total_bytes(scheme_size("int4")) == from_headers.total_bytes(scheme_size("bf16"))
    with pytest.raises(ArchitectureUnknown, match="bitsandbytes"):
        Weights(shape_of_config("tiny", {**tiny.CONFIG, "quantization_config": found})).total_bytes(scheme_size("bf16"))


# 4 layers of 128 x (128 + 64 + 64 + 128 + 3 x 256): 147,456 numbers each.
TINY_LINEAR, TINY_KEPT = 4 * 147_456, 2 * (512 * 128 + 9 * 128)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"quant_method": "fp8"}, TINY_LINEAR + 4 * 2 * (128 + 64 + 64 + 128 + 256 + 256 + 128) + TINY_KEPT),
        # Blocks of 128 x 128: 1 for each of q, k, v and o, 2 for each of gate, up and down.
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, TINY_LINEAR + 4 * 10 * 4 + TINY_KEPT),
        # AWQ: half a byte, a scale of 2 bytes and half a byte of zero point for 64.
        (
            {"quant_method": "awq", "bits": 4, "group_size": 64},
            TINY_LINEAR // 2 + TINY_LINEAR // 64 * 5 // 2 + 28 * 16 + TINY_KEPT,
        ),
        ({"quant_method": "mxfp4"}, TINY_LINEAR // 2 + TINY_LINEAR // 32 + TINY_KEPT),
        # Attention left alone by `*`; by `re:`; by the layers' whole name.
        (
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
            4 * (98_304 // 2 + 98_304 // 32 + 2 * 49_152) + TINY_KEPT,
        ),
        (
            {**compressed(8, "float", True), "ignore": [r"re:.*self_attn.*", "model.layers.3.mlp.down_proj"]},
            4 * 2 * 49_152 + 4 * (98_304 + 2 * 640) + (32_768 - 2 * 128) + TINY_KEPT,
        ),
    ],
)
def test_a_published_scheme_weighs_what_its_config_says(found: dict[str, Any], expected: int) -> None:
    assert total({**TINY, "quantization_config": found}, "bf16") == expected


def test_a_release_on_disk_stays_as_it_is(tmp_path: Path) -> None:
    found = {"quant_method": "awq", "bits": 4, "group_size": 64}
    plain = shape_of_folder(tiny.build(tmp_path / "plain"))
    quantized = Weights(shape_of_folder(tiny.build(tmp_path / "awq", quantization_config=found)))
    assert {quantized.total_bytes(scheme_size(name)) for name in ("bf16", "int4")} == {2 * plain.parameters}


# --- cut ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_the_parts_together_are_the_whole_and_what_is_repeated(scheme: str, tp: int) -> None:
    config = {**TINY, "tie_word_embeddings": False}
    weights, size = Weights(shape_of_config("tiny", config)), scheme_size(scheme)
    whole = Stage(0, 4, True, True)
    # Norms on every GPU; keys and values, 4 heads, twice on 8 GPUs.
    repeated = (tp - 1) * 9 * 128 * 2
    bits = {"bf16": 16, "int8": 8, "int4": 4}[scheme]
    group = weights.group_size(size)
    scales = 0 if scheme == "bf16" else (128 // group if group else 1) * 2 * 64
    keys = 4 * 2 * (128 * 64 * bits // 8 + scales + (16 if scheme == "int4" else 0))
    repeated += keys if tp == 8 else 0
    assert weights.gpu_bytes(size, tp, whole) * tp == pytest.approx(weights.total_bytes(size) + repeated, abs=tp)


def test_latents_and_routers_are_on_every_gpu(published_shape: Callable[[str], ModelShape]) -> None:
    shape = published_shape("deepseek-ai--deepseek-v2-lite")
    kept = re_sum(shape, ("kv_a_proj_with_mqa", "kv_a_layernorm", ".mlp.gate.", "norm0", "norm1", "model.norm"))
    weights, whole = Weights(shape), Stage(0, shape.layers, True, True)
    parts = 4 * weights.gpu_bytes(scheme_size("bf16"), 4, whole)
    assert parts == pytest.approx(2 * (shape.parameters + 3 * kept), abs=4)


def re_sum(shape: ModelShape, names: tuple[str, ...]) -> int:
    return sum(piece.elements for piece in shape.pieces if any(name in piece.name for name in names))


@pytest.mark.parametrize(
    ("layers", "pp", "counts"),
    [
        (32, 1, [32]),
        (32, 4, [8, 8, 8, 8]),
        # vLLM: one more for the stages before the last, which has the head.
        (30, 4, [7, 8, 8, 7]),
        (61, 8, [7, 7, 8, 8, 8, 8, 8, 7]),
        (5, 2, [3, 2]),
    ],
)
def test_layers_left_over_go_to_the_stages_before_the_last(layers: int, pp: int, counts: list[int]) -> None:
    made = stages(layers, pp)
    assert [stage.end_layer - stage.first_layer for stage in made] == counts
    assert [stage.embeds for stage in made] == [True] + [False] * (pp - 1)
    assert [stage.answers for stage in made] == [False] * (pp - 1) + [True]


@given(st.integers(1, 130), st.integers(1, 16))
def test_stages_hold_every_layer_once(layers: int, pp: int) -> None:
    made = stages(layers, min(pp, layers))
    assert made[0].first_layer == 0 and made[-1].end_layer == layers
    assert all(one.end_layer == two.first_layer for one, two in zip(made, made[1:]))
    assert max(one.end_layer - one.first_layer for one in made) - layers // len(made) <= 1


@pytest.mark.parametrize("tied", [True, False])
def test_the_stages_together_are_the_whole_and_a_tied_head_twice(tied: bool) -> None:
    weights = Weights(shape_of_config("tiny", {**TINY, "tie_word_embeddings": tied}))
    size, embedding = scheme_size("int8"), 2 * 512 * 128
    parts = [weights.gpu_bytes(size, 1, stage) for stage in stages(4, 3)]
    # The last stage answers with the embedding, so it needs one of its own.
    assert sum(parts) == weights.total_bytes(size) + (embedding if tied else 0)
    layer = 147_456 + 2 * 1024 + 2 * 256
    assert parts == [layer + embedding, 2 * layer, layer + 256 + embedding]


def test_the_vocabulary_is_padded_as_engines_do() -> None:
    # vLLM pads it to a multiple of 64: 100 words become 128.
    assert total({**TINY, "vocab_size": 100}, "bf16") == total({**TINY, "vocab_size": 128}, "bf16")


def test_groups_must_survive_the_cut() -> None:
    weights = Weights(shape_of_config("tiny", TINY))
    # int4 takes groups of 128 here: o_proj's 128 columns cannot be halved.
    assert "TP 2 leaves 64 columns" in weights.odd_cut(scheme_size("int4"), 2)
    assert weights.odd_cut(scheme_size("int4"), 1) == weights.odd_cut(scheme_size("int8"), 8) == ""
