"""Releases quantized by their publisher: scheme and size from their config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from tasks.fit.memory.weights import Weights
from tasks.fit.model.published_scheme import published_scheme
from tasks.fit.model.shape import shape_of_config, shape_of_folder
from tasks.schemes import scheme as find_scheme
from weighbridge.errors import ArchitectureUnknown

TINY = {**tiny.CONFIG, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16}
"""128 wide, 256 inside, 64 rows of keys, 512 words, tied."""


def total(config: dict[str, Any], scheme: str) -> int:
    return Weights(shape_of_config("by hand", config)).total_bytes(find_scheme(scheme))


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
        (compressed(4, "int", False, group_size=128, symmetric=False), "int4", {"symmetric": False}),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4", {"group_sizes": (128,)}),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": False}, "int8-w8a16", {"symmetric": False}),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4", {"group_sizes": (64,), "symmetric": False}),
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


def test_headers_give_the_size_of_an_unknown_method(tmp_path: Path) -> None:
    found = {"quant_method": "bitsandbytes"}
    from_headers = Weights(shape_of_folder(tiny.build(tmp_path / "tiny", quantization_config=found)))
    assert from_headers.published is None
    assert from_headers.total_bytes(find_scheme("int4")) == from_headers.total_bytes(find_scheme("bf16"))
    with pytest.raises(ArchitectureUnknown, match="bitsandbytes"):
        Weights(shape_of_config("tiny", {**tiny.CONFIG, "quantization_config": found})).total_bytes(find_scheme("bf16"))


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
        # Attention excluded by `*`, by `re:`, and by the layers' full names.
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
def test_a_published_scheme_has_the_size_its_config_implies(found: dict[str, Any], expected: int) -> None:
    assert total({**TINY, "quantization_config": found}, "bf16") == expected


def test_a_quantized_release_on_disk_keeps_its_size(tmp_path: Path) -> None:
    found = {"quant_method": "awq", "bits": 4, "group_size": 64}
    plain = shape_of_folder(tiny.build(tmp_path / "plain"))
    quantized = Weights(shape_of_folder(tiny.build(tmp_path / "awq", quantization_config=found)))
    assert {quantized.total_bytes(find_scheme(name)) for name in ("bf16", "int4")} == {2 * plain.parameters}
