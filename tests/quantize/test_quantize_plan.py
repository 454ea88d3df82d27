"""The recipe, decided from headers: targets, reasons, group sizes, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.quantize import scheme, scheme_names
from tasks.quantize.plan.recipe import make_recipe
from weighbridge.errors import QuantizationFailed, QuantizationUncovered, SchemeUnknown


def test_every_scheme_file_is_found_by_its_name() -> None:
    assert {"bf16", "fp8", "fp8-block", "int4", "int4-asym", "int8", "int8-w8a16"} <= set(scheme_names())
    assert [scheme(name).name for name in scheme_names()] == list(scheme_names())


def test_unknown_scheme_names_those_that_exist() -> None:
    with pytest.raises(SchemeUnknown, match=r"'int3'.*int4, int4-asym, int8, int8-w8a16"):
        scheme("int3")
    with pytest.raises(SchemeUnknown):
        scheme("_scheme")


def test_linear_layers_are_targets_and_embeddings_are_not(release: Callable[..., Path]) -> None:
    recipe = make_recipe(release(), scheme("int8"))
    assert len(recipe.layers) == 14
    assert all("_proj" in layer.name for layer in recipe.layers)
    assert [ignored.name for ignored in recipe.ignored] == ["model.embed_tokens"]
    assert "lm_head" in recipe.ignore, "a tied head is in no file and must be named all the same"


@pytest.mark.parametrize(("hidden", "intermediate", "group"), [(128, 256, 128), (64, 128, 64), (96, 192, 32)])
def test_int4_takes_the_largest_group_that_divides_every_layer(
    release: Callable[..., Path], hidden: int, intermediate: int, group: Any
) -> None:
    assert make_recipe(release(hidden, intermediate), scheme("int4")).group_size == group


def test_a_width_that_no_group_divides_is_refused_by_name(release: Callable[..., Path]) -> None:
    folder = release(72, 144)
    with pytest.raises(QuantizationUncovered, match=r"model\.layers\.0\.mlp\.down_proj is 144 wide") as refused:
        make_recipe(folder, scheme("int4"))
    assert "int8" in refused.value.next_step
    assert len(make_recipe(folder, scheme("int8")).layers) == 14, "rows have no groups"


def test_routers_towers_and_untied_heads_are_not_quantized(release: Callable[..., Path]) -> None:
    square = np.ones((64, 64), np.float32)
    names = ("model.layers.0.mlp.gate.weight", "model.vision_tower.blocks.0.fc1.weight", "lm_head.weight")
    recipe = make_recipe(release(**dict.fromkeys(names, square)), scheme("int8"))
    reasons = {ignored.name: ignored.reason for ignored in recipe.ignored}
    assert "router" in reasons["model.layers.0.mlp.gate"]
    assert "tower" in reasons["model.vision_tower.blocks.0.fc1"]
    assert "head" in reasons["lm_head"]
    assert {"model.layers.0.mlp.gate", "model.vision_tower.blocks.0.fc1", "lm_head"} <= set(recipe.ignore)
    assert len(recipe.layers) == 14


def test_vectors_that_are_called_weight_are_ignored_by_name(release: Callable[..., Path]) -> None:
    recipe = make_recipe(release(**{"model.layers.0.ln_1.weight": np.ones(64, np.float32)}), scheme("int8"))
    assert "model.layers.0.ln_1" in recipe.ignore


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 64, 64)),
        ("model.layers.0.block_sparse_moe.input_linear.weight", (4, 64, 64)),
        ("transformer.blocks.0.ffn.experts.mlp.w1", (256, 64)),
    ],
)
def test_experts_in_one_tensor_are_refused_rather_than_left_out(
    release: Callable[..., Path], name: str, shape: Any
) -> None:
    with pytest.raises(QuantizationUncovered, match="holds all experts of a layer in one tensor") as refused:
        make_recipe(release(**{name: np.ones(shape, np.float32)}), scheme("int8-w8a16"))
    assert name in refused.value.what


def test_convolutions_and_towers_of_three_dimensions_are_no_experts(release: Callable[..., Path]) -> None:
    cube = np.ones((4, 1, 3), np.float32)
    names = ("model.layers.0.mixer.conv1d.weight", "visual.blocks.0.position")
    assert len(make_recipe(release(**dict.fromkeys(names, cube)), scheme("int8")).layers) == 14


EXPERT = "model.layers.0.mlp.experts.3.up_proj.weight"


@pytest.mark.parametrize("name", ["int8", "int4-asym"])
def test_experts_that_would_not_load_are_refused(release: Callable[..., Path], name: str) -> None:
    with pytest.raises(QuantizationUncovered, match=r"experts\.3\.up_proj belongs to a mixture") as refused:
        make_recipe(release(**{EXPERT: np.ones((64, 64), np.float32)}), scheme(name))
    assert "int8-w8a16" in refused.value.next_step


@pytest.mark.parametrize("name", ["int8-w8a16", "int4", "fp8"])
def test_a_matrix_for_each_expert_is_a_target(release: Callable[..., Path], name: str) -> None:
    recipe = make_recipe(release(**{EXPERT: np.ones((64, 64), np.float32)}), scheme(name))
    assert EXPERT.removesuffix(".weight") in {layer.name for layer in recipe.layers}


def test_blocks_must_divide_every_layer(release: Callable[..., Path]) -> None:
    folder = release(64, 128)
    with pytest.raises(QuantizationUncovered, match=r"down_proj is 64 × 128: blocks of 128 × 128") as refused:
        make_recipe(folder, scheme("fp8-block"))
    assert "fp8" in refused.value.next_step
    recipe = make_recipe(release(128, 256), scheme("fp8-block"))
    assert recipe.block == (128, 128)
    weight, scale = recipe.expected(recipe.layers[0])
    assert (weight.dtype, scale.shape) == ("F8_E4M3", (1, 2))


def test_zero_points_are_packed_along_the_output(release: Callable[..., Path]) -> None:
    recipe = make_recipe(release(64, 128), scheme("int4-asym"))
    gate = next(layer for layer in recipe.layers if layer.name.endswith("0.mlp.gate_proj"))
    shapes = {part.name.rpartition(".")[2]: part.shape for part in recipe.expected(gate)}
    assert shapes == {
        "weight_packed": (128, 8),
        "weight_scale": (128, 1),
        "weight_shape": (2,),
        "weight_zero_point": (16, 1),
    }


def test_conv1d_models_have_nothing_to_cover(release: Callable[..., Path]) -> None:
    folder = release()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(QuantizationUncovered, match="Nothing in the release is a Linear weight"):
        make_recipe(folder, scheme("int8"))


def test_a_quantized_release_is_refused(release: Callable[..., Path]) -> None:
    folder = release()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(QuantizationUncovered, match="quantized already, by gptq") as refused:
        make_recipe(folder, scheme("int8"))
    assert "bf16" in refused.value.next_step


@pytest.mark.parametrize("kept_bytes", [4, 100, 20_000])
def test_a_truncated_file_is_named(release: Callable[..., Path], kept_bytes: Any) -> None:
    weights = release() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept_bytes])
    with pytest.raises(QuantizationFailed, match=r"model\.safetensors is truncated"):
        make_recipe(weights.parent, scheme("int8"))


def test_a_missing_shard_is_named(release: Callable[..., Path]) -> None:
    folder = release()
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(QuantizationFailed, match=r"model-00002-of-00002\.safetensors is named by the index"):
        make_recipe(folder, scheme("int8"))


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, tasks.quantize; print([name for name in ('torch', 'prefect', 'mlflow') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd(), check=True)
    assert run.stdout.strip() == "[]"
