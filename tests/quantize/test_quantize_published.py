"""Releases quantized by their publishers, in the layouts of auto-gptq, AutoAWQ and others, damaged part by part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.installation import Installation
from registry.store import Store
from tasks.quantize import check_published, quantize, scheme
from tasks.quantize.methods import rtn
from tasks.quantize.plan.recipe import make_recipe
from tasks.quantize.process.job import Job
from tests.quantize.quantize_support import llama_config, llama_weights, write_tensors
from weighbridge.errors import QuantizationFailed, QuantizationUncovered

HIDDEN, INTERMEDIATE, GROUP, BITS = 64, 128, 32, 4
LAYERS = 14
LAYER = "model.layers.1.mlp.down_proj"
Raw = dict[str, tuple[str, np.ndarray]]

GPTQ = {"quant_method": "gptq", "bits": BITS, "group_size": GROUP, "desc_act": True, "sym": True}
AWQ = {"quant_method": "awq", "bits": BITS, "group_size": GROUP, "zero_point": True, "version": "gemm"}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}


def _gptq_layer(name: str, outputs: int, inputs: int, *, group: int = GROUP) -> Raw:
    groups = inputs // group
    return {
        f"{name}.qweight": ("I32", np.full((inputs * BITS // 32, outputs), 0x12345678, "<i4")),
        f"{name}.qzeros": ("I32", np.full((groups, outputs * BITS // 32), 0x77777777, "<i4")),
        f"{name}.scales": ("F16", np.full((groups, outputs), 0.01, "<f2")),
        f"{name}.g_idx": ("I32", (np.arange(inputs) // group).astype("<i4")),
    }


def _awq_layer(name: str, outputs: int, inputs: int) -> Raw:
    return {
        f"{name}.qweight": ("I32", np.full((inputs, outputs * BITS // 32), 0x12345678, "<i4")),
        f"{name}.qzeros": ("I32", np.full((inputs // GROUP, outputs * BITS // 32), 0x77777777, "<i4")),
        f"{name}.scales": ("F16", np.full((inputs // GROUP, outputs), 0.01, "<f2")),
    }


def _fp8_layer(name: str, outputs: int, inputs: int) -> Raw:
    return {
        f"{name}.weight": ("F8_E4M3", np.full((outputs, inputs), 0x38, np.uint8)),
        f"{name}.weight_scale_inv": ("F32", np.full((outputs // 32, inputs // 32), 0.02, "<f4")),
    }


def _release(folder: Path, config: dict[str, Any], layer: Callable[..., Raw], change: Callable[[Raw], Any]) -> Path:
    tensors: Raw = {}
    for name, values in llama_weights(HIDDEN, INTERMEDIATE).items():
        if "_proj" in name:
            tensors |= layer(name.removesuffix(".weight"), *values.shape)
        else:
            tensors[name] = ("F16", values.astype("<f2"))
    change(tensors)
    folder.mkdir()
    write_tensors(folder / "model.safetensors", tensors)
    whole = {**llama_config(HIDDEN, INTERMEDIATE), "quantization_config": config}
    (folder / "config.json").write_text(json.dumps(whole))
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a release; `change` alters its tensors."""

    def release(
        config: dict[str, Any] = GPTQ,
        layer: Callable[..., Raw] = _gptq_layer,
        change: Callable[[Raw], Any] = lambda tensors: None,
    ) -> Path:
        return _release(tmp_path / "release", config, layer, change)

    return release


@pytest.mark.parametrize(
    ("config", "layer", "bits", "group"),
    [(GPTQ, _gptq_layer, 4, GROUP), (AWQ, _awq_layer, 4, GROUP), (FP8, _fp8_layer, 8, None)],
)
def test_published_formats_are_recognised_and_complete(
    make: Callable[..., Any], config: Any, layer: Any, bits: int, group: Any
) -> None:
    found = check_published(make(config, layer))
    assert found is not None
    assert (found.method, found.bits, found.group_size, found.layers) == (config["quant_method"], bits, group, LAYERS)
    assert found.checked
    assert found.share_of_linear_bytes == 1


def test_a_release_as_trained_is_not_called_quantized(release: Callable[..., Path]) -> None:
    assert check_published(release()) is None


def test_excluded_layers_are_missing_from_the_share(make: Callable[..., Any]) -> None:
    head = {"lm_head.weight": ("F16", np.ones((64, HIDDEN), "<f2"))}
    found = check_published(make(change=lambda tensors: tensors.update(head)))
    quantized = sum(values.size for name, values in llama_weights(HIDDEN, INTERMEDIATE).items() if "_proj" in name)
    assert found is not None
    assert found.share_of_linear_bytes == pytest.approx(quantized / (quantized + 64 * HIDDEN))


def test_one_group_for_a_whole_row(make: Callable[..., Any]) -> None:
    found = check_published(
        make({**GPTQ, "group_size": -1}, lambda name, outputs, inputs: _gptq_layer(name, outputs, inputs, group=inputs))
    )
    assert found is not None
    assert (found.group_size, found.layers) == (None, LAYERS)


def test_without_an_order_of_groups_there_is_no_index(make: Callable[..., Any]) -> None:
    def drop(tensors: Raw) -> None:
        for name in [name for name in tensors if name.endswith("g_idx")]:
            del tensors[name]

    found = check_published(make({**GPTQ, "desc_act": False}, change=drop))
    assert found is not None and found.layers == LAYERS


@pytest.mark.parametrize(("config", "layer"), [(GPTQ, _gptq_layer), (AWQ, _awq_layer)])
@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_missing_part_is_named(make: Callable[..., Any], config: Any, layer: Any, part: str) -> None:
    folder = make(config, layer, lambda tensors: tensors.pop(f"{LAYER}.{part}"))
    with pytest.raises(QuantizationUncovered, match=f"{LAYER} is not as .*"):
        check_published(folder)


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales", "g_idx"])
def test_a_part_of_another_shape_is_named(make: Callable[..., Any], part: str) -> None:
    def cut(tensors: Raw) -> None:
        kind, values = tensors[f"{LAYER}.{part}"]
        tensors[f"{LAYER}.{part}"] = (kind, np.ascontiguousarray(values[:-1]))

    with pytest.raises(QuantizationUncovered, match=f"{LAYER} is not as gptq writes it"):
        check_published(make(change=cut))


def test_a_part_of_another_type_is_named(make: Callable[..., Any]) -> None:
    def retype(tensors: Raw) -> None:
        tensors[f"{LAYER}.scales"] = ("I32", tensors[f"{LAYER}.scales"][1].astype("<i4"))

    with pytest.raises(QuantizationUncovered, match=r"scales is I32 \[4, 64\], not BF16 or F16 or F32"):
        check_published(make(change=retype))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("config", "layer", "part"),
    [(GPTQ, _gptq_layer, "scales"), (AWQ, _awq_layer, "scales"), (FP8, _fp8_layer, "weight_scale_inv")],
)
def test_scales_must_be_finite(make: Callable[..., Any], config: Any, layer: Any, part: str, bad: Any) -> None:
    def spoil(tensors: Raw) -> None:
        tensors[f"{LAYER}.{part}"][1][-1, -1] = bad

    with pytest.raises(QuantizationFailed, match=f"{LAYER}.{part} holds a value"):
        check_published(make(config, layer, spoil))


@pytest.mark.parametrize("group", [-1, INTERMEDIATE // GROUP])
def test_an_index_outside_the_groups_is_refused_as_damage(make: Callable[..., Any], group: Any) -> None:
    def spoil(tensors: Raw) -> None:
        tensors[f"{LAYER}.g_idx"][1][7] = group

    with pytest.raises(QuantizationFailed, match=f"{LAYER} is damaged: g_idx names a group"):
        check_published(make(change=spoil))


def test_a_config_that_names_missing_tensors_is_refused(release: Callable[..., Path]) -> None:
    folder = release()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": GPTQ}))
    with pytest.raises(QuantizationUncovered, match="no layer in its files is"):
        check_published(folder)


def test_a_truncated_file_is_named(make: Callable[..., Any]) -> None:
    weights = make() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(QuantizationFailed, match="is truncated"):
        check_published(weights.parent)


def test_another_layout_of_awq_is_not_recognised(make: Callable[..., Any]) -> None:
    with pytest.raises(QuantizationUncovered, match="'gemv'"):
        check_published(make({**AWQ, "version": "gemv"}, _awq_layer))


def test_an_unknown_method_is_reported_as_unchecked(make: Callable[..., Any]) -> None:
    found = check_published(make({"quant_method": "bitsandbytes"}))
    assert found is not None
    assert (found.method, found.checked, found.layers) == ("bitsandbytes", False, 0)


@pytest.mark.parametrize("name", ["int8", "int8-w8a16", "int4", "int4-asym", "fp8", "fp8-block"])
def test_our_own_artifacts_are_recognised_as_published(release: Callable[..., Path], tmp_path: Path, name: str) -> None:
    source = release(128, 256)
    recipe = make_recipe(source, scheme(name))
    rtn.quantize(Job(source=source, out=tmp_path / "out", recipe=recipe), lambda: None)
    found = check_published(tmp_path / "out")
    assert found is not None
    assert (found.method, found.bits, found.layers) == ("compressed-tensors", recipe.weight_bits, len(recipe.layers))
    assert found.share_of_linear_bytes == 1


def test_bf16_takes_it_as_published_and_other_schemes_say_so(make: Callable[..., Any], store: Store) -> None:
    source = store.adopt(make(), line="tiny", scheme="gptq", repo="test/tiny", commit="0" * 40)
    assert quantize(Installation.load(), source, "bf16") is source
    with pytest.raises(QuantizationUncovered, match="quantized already, by gptq") as refused:
        quantize(Installation.load(), source, "int8")
    assert "bf16" in refused.value.next_step


def test_bf16_of_a_damaged_release_is_refused(make: Callable[..., Any], store: Store) -> None:
    folder = make(change=lambda tensors: tensors.pop(f"{LAYER}.scales"))
    source = store.adopt(folder, line="tiny", scheme="gptq", repo="test/tiny", commit="0" * 40)
    with pytest.raises(QuantizationUncovered, match=f"{LAYER} is not as gptq writes it: scales is missing"):
        quantize(Installation.load(), source, "bf16")
