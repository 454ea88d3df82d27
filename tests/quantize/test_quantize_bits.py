"""Our arithmetic against compressed-tensors' and llm-compressor's, bit by bit; importing those takes the most time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.quantize import scheme
from tasks.quantize.loader_config import quantization_config
from tasks.quantize.methods import rtn
from tasks.quantize.plan.layouts import Layout
from tasks.quantize.plan.recipe import make_recipe
from tasks.quantize.process.job import Job
from tasks.quantize.rounding import NotFinite, narrow, pack, round_rows, round_to, widen
from tasks.quantize.tensors import read_tensors
from tests.quantize.quantize_support import write_sharded

pytestmark = pytest.mark.timeout(400)

DATA_FREE = ("int8", "int8-w8a16", "int4", "int4-asym", "fp8", "fp8-block")
KINDS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def _layout(name: str, group_size: int | None) -> Layout:
    chosen = scheme(name)
    return Layout(
        format=chosen.format,
        weight_bits=chosen.weight_bits,
        group_size=group_size,
        block=chosen.block,
        symmetric=chosen.symmetric,
    )


def _theirs(bits: np.ndarray, dtype: str, name: str, group_size: int | None) -> dict[str, bytes]:
    """The same rows by compressed-tensors' own functions."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    weight = torch.from_numpy(bits.copy()).view(getattr(torch, KINDS[dtype]))
    args = scheme(name).compressed_tensors(group_size)
    rows, columns = weight.shape
    if args.weights.block_structure:
        height, width = args.weights.block_structure
        grouped = weight.reshape(rows // height, height, columns // width, width).transpose(1, 2).flatten(2)
    else:
        grouped = weight.reshape(rows, -1, group_size or columns)
    scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args.weights)
    state = {"weight": weight, "weight_scale": scale}
    if not scheme(name).symmetric:
        state["weight_zero_point"] = zero
    done = BaseCompressor.get_value_from_registry(scheme(name).format).compress(state, args)
    return {part: value.contiguous().view(torch.uint8).numpy().tobytes() for part, value in done.items()}


def _ours(bits: np.ndarray, dtype: str, name: str, group_size: int | None) -> dict[str, bytes]:
    made = round_rows(bits, dtype, _layout(name, group_size), is_float=scheme(name).weight_type == "float")
    packed = scheme(name).format == "pack-quantized"
    parts = {"weight_packed" if packed else "weight": made.weight.tobytes(), "weight_scale": made.scale.tobytes()}
    if packed:
        parts["weight_shape"] = np.array(bits.shape, "<i8").tobytes()
    if made.zero_point is not None:
        parts["weight_zero_point"] = made.zero_point.tobytes()
    return parts


def _weights(dtype: str, seed: int, rows: int, columns: int, spread: float) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = (random.standard_normal((rows, columns)) * spread).astype(np.float32)
    # A row of zeros, one far to one side of zero, one of the smallest numbers, and ties.
    values[0] = 0
    values[1] = np.abs(values[1]) + np.float32(spread)
    values[2] *= np.float32(1e-30)
    values[3] = np.round(values[3] / np.float32(spread)) * np.float32(spread)
    round_to(values, dtype)
    return narrow(values, dtype)


@pytest.mark.parametrize("name", DATA_FREE)
@pytest.mark.parametrize("dtype", KINDS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.sampled_from([8, 37, 128]), spread=st.sampled_from([0.02, 1.0, 300.0, 1e-7]))
def test_every_scheme_has_compressed_tensors_bits(name: str, dtype: Any, seed: int, rows: Any, spread: Any) -> None:
    size = next((size for size in scheme(name).group_sizes), None)
    rows, columns = (128, 256) if scheme(name).block else (rows, 256 if size else 203)
    bits = _weights(dtype, seed, rows, columns, spread)
    assert _ours(bits, dtype, name, size) == _theirs(bits, dtype, name, size)


def test_all_numbers_of_bfloat16_become_torchs_fp8() -> None:
    import torch

    numbers = np.arange(2**16, dtype=np.uint32).astype("<u2")
    numbers = numbers[(numbers & 0x7F80) != 0x7F80]
    numbers = numbers[np.abs(widen(numbers, "BF16")) <= 448]
    # A scale of one: the largest of each row is 448.
    rows = np.stack([numbers, np.full_like(numbers, 0x43E0)], axis=1)
    actual = round_rows(rows, "BF16", _layout("fp8", None), is_float=True).weight[:, 0]
    expected = torch.from_numpy(numbers.copy()).view(torch.bfloat16).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(actual, expected)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [1, 7, 8, 33, 64])
def test_packing_is_compressed_tensors_own(bits: int, columns: int) -> None:
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes = np.random.default_rng(columns).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (5, columns)).astype(np.int8)
    assert np.array_equal(pack(codes, bits), pack_to_int32(torch.from_numpy(codes), bits).numpy())


@pytest.mark.parametrize("name", DATA_FREE)
@pytest.mark.parametrize(("dtype", "bad"), [("BF16", 0x7F80), ("BF16", 0xFFC0), ("F16", 0x7C00), ("F32", 0x7FC00000)])
def test_values_without_a_scale_are_refused(name: str, dtype: Any, bad: Any) -> None:
    bits = np.ones((128, 128), "<u4" if dtype == "F32" else "<u2")
    bits[77, 5] = bad
    with pytest.raises(NotFinite):
        round_rows(bits, dtype, _layout(name, 128 if scheme(name).group_sizes else None), is_float="fp8" in name)


@pytest.mark.parametrize("name", DATA_FREE)
def test_the_loaders_config_is_what_compressed_tensors_writes(release: Callable[..., Path], name: str) -> None:
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus

    recipe = make_recipe(release(128, 256), scheme(name))
    group = scheme(name).compressed_tensors(recipe.group_size)
    group.format = recipe.format
    expected = QuantizationConfig(
        config_groups={"config_group_0": group},
        ignore=list(recipe.ignore),
        format=recipe.format,
        quantization_status=QuantizationStatus.COMPRESSED,
    ).model_dump()
    actual = quantization_config(recipe)
    written = json.loads(json.dumps({key: actual[key] for key in expected}))
    assert written == json.loads(json.dumps(expected, default=str))


@pytest.mark.parametrize("name", ["int8", "int8-w8a16", "int4", "int4-asym", "fp8-block"])
def test_a_sharded_model_has_the_tensors_of_model_free_ptq(tmp_path: Path, name: str) -> None:
    from llmcompressor import model_free_ptq

    source = write_sharded(tmp_path / "release", 128, 256)
    recipe = make_recipe(source, scheme(name))
    rtn.quantize(Job(source=source, out=tmp_path / "weighbridge", recipe=recipe), lambda: None)
    model_free_ptq(
        source,
        tmp_path / "llmcompressor",
        scheme=scheme(name).compressed_tensors(recipe.group_size),
        ignore=list(recipe.ignore),
        max_workers=1,
        device="cpu",
    )
    assert _content(tmp_path / "weighbridge") == _content(tmp_path / "llmcompressor")
    for file in ("model.safetensors.index.json", "config.json"):
        actual, expected = (
            json.loads((tmp_path / side / file).read_text()) for side in ("weighbridge", "llmcompressor")
        )
        for group in expected.get("quantization_config", {}).get("config_groups", {}).values():
            group["weights"]["observer"] = None
        assert actual == expected


def _content(folder: Path) -> dict[str, tuple[str, str, tuple[int, ...], bytes]]:
    return {
        tensor.name: (
            tensor.file.name,
            tensor.dtype,
            tensor.shape,
            tensor.file.read_bytes()[tensor.start : tensor.start + tensor.size_bytes],
        )
        for tensor in read_tensors(folder)
    }
