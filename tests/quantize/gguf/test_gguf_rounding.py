"""ggml's quantizers, called through ctypes, against the `gguf` package's arithmetic."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.quantize.gguf import ggml
from tasks.schemes import all_schemes
from tasks.source.gguf.tensor_types import TENSOR_TYPES
from weighbridge.errors import QuantizationFailed

ROWS = np.random.default_rng(3).normal(0, 0.03, (6, 1024)).astype(np.float32)


def quantized(name: str, rows: np.ndarray = ROWS) -> np.ndarray:
    kind = TENSOR_TYPES[name]
    out = np.empty((rows.shape[0], kind.row_bytes(rows.shape[1])), np.uint8)
    ggml.quantize_rows(rows, kind, out)
    return out


@pytest.mark.parametrize("name", ["q8_0", "q5_0", "q5_1"])
def test_small_blocks_are_byte_for_byte_those_of_the_gguf_package(name: str) -> None:
    expected = quants.quantize(ROWS, GGMLQuantizationType(TENSOR_TYPES[name].number))
    assert (quantized(name) == expected).all()


@pytest.mark.parametrize(
    "name, bound", [("q8_0", 0.006), ("q6_K", 0.02), ("q5_K", 0.04), ("q5_0", 0.05), ("q4_K", 0.08)]
)
def test_the_gguf_package_dequantizes_close_to_the_original(name: str, bound: Any) -> None:
    back = quants.dequantize(quantized(name), GGMLQuantizationType(TENSOR_TYPES[name].number))
    assert 0 < np.linalg.norm(back - ROWS) / np.linalg.norm(ROWS) < bound


@pytest.mark.parametrize("name", [name for name, kind in TENSOR_TYPES.items() if kind.is_quantized])
def test_scales_are_at_the_checked_offsets(name: str) -> None:
    kind = TENSOR_TYPES[name]
    blocks = quantized(name, ROWS).reshape(-1, kind.block_bytes)
    doubled = quantized(name, ROWS * 2).reshape(-1, kind.block_bytes)
    for at in kind.scales:
        before, after = (part[:, at : at + 2].copy().view(np.float16).astype(float) for part in (blocks, doubled))
        assert np.allclose(after, 2 * before, rtol=2e-3, atol=1e-6)


@settings(deadline=None)
@given(
    name=st.sampled_from([name for name, kind in TENSOR_TYPES.items() if kind.is_quantized]),
    seed=st.integers(0, 2**32 - 1),
    magnitude=st.floats(-10, 0),
    spikes=st.booleans(),
)
def test_a_block_is_zero_only_below_its_reach(name: str, seed: int, magnitude: Any, spikes: Any) -> None:
    """What the check of a written file takes for right must be so for every block that ggml writes."""
    kind = TENSOR_TYPES[name]
    values = np.random.default_rng(seed).standard_t(2 if spikes else 100, (1, kind.values))
    row = (values / np.abs(values).max() * 10**magnitude).astype(np.float32)
    block = quantized(name, row)[0]
    zero = not any(block[at : at + 2].copy().view(np.float16)[0] for at in kind.scales)
    assert not zero or np.abs(row).max() < kind.reach * 2.0**-24


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ggml._library.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QuantizationFailed, match="xllamacpp cannot quantize: it is not installed"):
        quantized("q8_0")


def test_a_library_with_other_blocks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ggml._library.cache_clear()
    from dataclasses import replace

    monkeypatch.setitem(ggml.TENSOR_TYPES, "q4_K", replace(TENSOR_TYPES["q4_K"], block_bytes=140))
    with pytest.raises(QuantizationFailed, match="type 12 is q4_K of 144 bytes, not q4_K of 140"):
        quantized("q8_0")
    ggml._library.cache_clear()


def test_file_types_are_llama_cpps() -> None:
    from gguf import LlamaFileType

    types = {scheme.name: scheme.gguf.file_type for scheme in all_schemes() if scheme.gguf}
    assert types == {"q8-0": LlamaFileType.MOSTLY_Q8_0, "q4-k-m": LlamaFileType.MOSTLY_Q4_K_M}
