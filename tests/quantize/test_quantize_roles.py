"""Roles by place and shape, `ignore` in every loader's names, and releases that are quantized or incomplete."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.quantize import check_published, scheme
from tasks.quantize.plan.recipe import Recipe, make_recipe
from tasks.quantize.run import copy_companions
from tests.quantize.quantize_support import llama_config, llama_weights, write_bf16, write_sharded, write_tensors
from weighbridge.errors import QuantizationFailed, QuantizationUncovered

Releases = Callable[..., Path]
SQUARE = np.ones((64, 64), np.float32)


def _ignored(recipe: Recipe, module: str) -> bool:
    """Whether a loader leaves a module alone, by compressed-tensors' rule."""
    return any(re.match(entry[3:], module) if entry.startswith("re:") else entry == module for entry in recipe.ignore)


def _config(folder: Path, **more: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def test_a_tower_is_ignored_under_the_names_of_files_transformers_and_vllm(release: Releases) -> None:
    folder = release(**{"visual.blocks.0.attn.qkv.weight": SQUARE, "visual.merger.mlp.0.weight": SQUARE})
    _config(folder, vision_config={"depth": 1})
    recipe = make_recipe(folder, scheme("int8"))
    assert len(recipe.layers) == 14
    for module in ("visual.blocks.0.attn.qkv", "model.visual.blocks.0.attn.qkv", "model.visual.merger.mlp.0"):
        assert _ignored(recipe, module), module
    for name in (layer.name for layer in recipe.layers):
        for spelling in (name, name.replace("model.", "model.language_model."), f"language_model.{name}"):
            assert not _ignored(recipe, spelling), spelling


def test_a_tower_of_an_unknown_name_stands_outside_the_text_model(tmp_path: Path) -> None:
    text = {name.replace("model.", "llm.model.", 1): values for name, values in llama_weights(64, 128).items()}
    write_bf16(tmp_path / "model.safetensors", {**text, "eyes.layers.0.fc1.weight": SQUARE, "bridge.weight": SQUARE})
    (tmp_path / "config.json").write_text(
        json.dumps({"text_config": llama_config(64, 128), "vision_config": {"depth": 1}, "model_type": "new"})
    )
    recipe = make_recipe(tmp_path, scheme("int8"))
    assert {layer.name.partition(".")[0] for layer in recipe.layers} == {"llm"}
    assert _ignored(recipe, "model.eyes.layers.0.fc1")
    assert _ignored(recipe, "model.bridge")


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("transformer.output_layer", (64, 64), "the head"),
        ("head", (64, 64), "the head"),
        ("model.layers.2.shared_head.head", (64, 64), "the head"),
        ("model.layers.2.eh_proj", (64, 128), "further tokens"),
        ("model.layers.2.mlp.up_proj", (64, 64), "further tokens"),
        ("model.layers.0.mlp.gate.wg", (8, 64), "narrow|other experts"),
        ("model.layers.0.linear_attn.in_proj_ba", (4, 64), "narrow"),
        ("model.layers.0.altup.prediction_coefs", (64, 64), "narrow"),
        ("model.per_layer_projection", (96, 64), "outside the repeated layers"),
    ],
)
def test_heads_routers_and_gates_stay_whatever_they_are_called(
    release: Releases, name: str, shape: tuple[int, int], reason: str
) -> None:
    recipe = make_recipe(release(**{f"{name}.weight": np.ones(shape, np.float32)}), scheme("int8"))
    found = {ignored.name: ignored.reason for ignored in recipe.ignored}
    assert re.search(reason, found[name])
    assert len(recipe.layers) == 14
    assert _ignored(recipe, name)


def test_a_router_has_a_row_for_each_expert_beside_it(release: Releases) -> None:
    experts = {f"model.layers.0.mlp.experts.{number}.up_proj.weight": SQUARE for number in range(40)}
    chooser = {"model.layers.0.mlp.chooser.wg.weight": np.ones((40, 64), np.float32)}
    recipe = make_recipe(release(**experts, **chooser), scheme("int4"))
    assert "other experts" in next(one.reason for one in recipe.ignored if one.name.endswith("chooser.wg"))


def test_a_dense_text_model_names_its_modules_as_before(release: Releases) -> None:
    assert make_recipe(release(), scheme("int8")).ignore == ("lm_head", "model.embed_tokens")


def test_what_engines_compute_together_stays_together(release: Releases) -> None:
    from weighbridge.line import SchemeChoice

    recipe = make_recipe(release(), scheme("int8"), choice=SchemeChoice(ignore=["model.layers.0.self_attn.q_proj"]))
    stays = {one.name: one.reason for one in recipe.ignored}
    assert "together with its q_proj" in stays["model.layers.0.self_attn.k_proj"]
    assert "model.layers.0.self_attn.v_proj" in stays
    assert len(recipe.layers) == 11


def test_a_small_unsuited_layer_stays_and_a_large_one_names_the_recipe(release: Releases) -> None:
    small = {"model.layers.0.mlp.side.weight": np.ones((32, 40), np.float32)}
    recipe = make_recipe(release(128, 256, **small), scheme("int4"))
    assert "no group divides its width" in {one.reason for one in recipe.ignored}
    with pytest.raises(QuantizationUncovered) as refused:
        make_recipe(release(72, 144), scheme("int4"))
    assert "`ignore`" in refused.value.next_step


@pytest.mark.parametrize(
    ("part", "dtype"),
    [("weight", "F8_E4M3"), ("weight_packed", "I32"), ("qweight", "I32"), ("weight_scale", "BF16"), ("weight", "U8")],
)
def test_a_quantized_tensor_decides_whatever_the_config_says(tmp_path: Path, part: str, dtype: str) -> None:
    numbers = {"F8_E4M3": "u1", "U8": "u1", "I32": "<i4", "BF16": "<u2"}
    layer = {f"model.layers.0.mlp.up_proj.{part}": (dtype, np.ones((64, 64), numbers[dtype]))}
    write_tensors(tmp_path / "model.safetensors", layer)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(QuantizationUncovered, match=r"quantized already, by a method that config\.json does not name"):
        make_recipe(tmp_path, scheme("int8"))
    found = check_published(tmp_path)
    assert found is not None and not found.checked


def test_other_files_and_nested_configs_tell_of_a_quantization(release: Releases) -> None:
    folder = release()
    _config(folder, quantization_config=None)
    assert len(make_recipe(folder, scheme("int8")).layers) == 14, "null says nothing"
    _config(folder, text_config={"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}})
    with pytest.raises(QuantizationUncovered, match="already, by awq"):
        make_recipe(folder, scheme("int8"))
    _config(folder, text_config=None)
    (folder / "hf_quant_config.json").write_text("{}")
    for name in ("int8", "q8-0"):
        with pytest.raises(QuantizationUncovered, match="modelopt"):
            from tasks.quantize.run import recipe_of

            recipe_of(folder, scheme(name), None, "tiny")


def test_the_index_and_the_config_are_held_against_the_files(tmp_path: Path, release: Releases) -> None:
    folder = write_sharded(tmp_path / "sharded")
    index = folder / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"]["model.layers.1.mlp.gone.weight"] = next(iter(found["weight_map"].values()))
    index.write_text(json.dumps(found))
    with pytest.raises(QuantizationFailed, match=r"layers\.1\.mlp\.gone\.weight, which is not in the file"):
        make_recipe(folder, scheme("int8"))
    folder = release()
    _config(folder, num_hidden_layers=4)
    with pytest.raises(QuantizationFailed, match=r"counts 4 layers, and the files have no model\.layers\.2"):
        make_recipe(folder, scheme("int8"))


def test_tensors_of_three_dimensions_that_are_no_experts_stay(release: Releases) -> None:
    cubes = {"model.layers.0.rg_lru.input_gate_weight": np.ones((4, 16, 16), np.float32)}
    assert len(make_recipe(release(**cubes), scheme("int8")).layers) == 14


def test_types_that_nothing_rounds_are_copied_and_a_list_is_refused(tmp_path: Path) -> None:
    bits = {name: ("BF16", np.ones(values.shape, "<u2")) for name, values in llama_weights(64, 128).items()}
    write_tensors(tmp_path / "model.safetensors", {**bits, "model.freqs": ("C64", np.ones((4, 4), "<c8"))})
    (tmp_path / "config.json").write_text(json.dumps(llama_config(64, 128)))
    assert make_recipe(tmp_path, scheme("int8")).predicted_bytes > 0
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(QuantizationFailed, match="not a JSON object"):
        make_recipe(tmp_path, scheme("int8"))


def test_files_that_no_engine_reads_are_left(release: Releases, tmp_path: Path) -> None:
    folder = release()
    (folder / "onnx").mkdir()
    for name in ("onnx/config.json", "model.tflite", "adapter_config.json", "model.onnx_data"):
        (folder / name).write_text("{}")
    out = tmp_path / "out"
    out.mkdir()
    copy_companions(folder, out)
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "LICENSE",
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
    }
