"""The support table of schemes by GPU and engine, written out in full, against the capabilities."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasks.engines import engine_names
from tasks.fit.hardware.gpus import gpu as find_gpu
from tasks.fit.hardware.gpus import gpu_names
from tasks.fit.memory.terms import PlannedModel
from tasks.fit.plan import fit_row
from tasks.fit.request import FitRequest
from tasks.schemes import all_schemes
from tests.fit.fit_support import LLAMA

EVERYWHERE = {"bf16", "int8-w8a16", "int4", "int4-asym", "fp8", "q8-0", "q4-k-m"}
HOPPER = EVERYWHERE | {"int8", "fp8-block", "mxfp4"}
BLACKWELL = HOPPER - {"int8"}
GPUS = {
    "T4": EVERYWHERE | {"int8"},
    "L4": HOPPER,
    "A10": HOPPER - {"fp8-block"},
    "A100-40": HOPPER - {"fp8-block"},
    "A100-80": HOPPER - {"fp8-block"},
    "L40S": HOPPER,
    "RTX4090": HOPPER,
    "RTX5090": BLACKWELL,
    "RTX4000-SFF-Ada": HOPPER,
    "RTX6000-Ada": HOPPER,
    "RTX-PRO-6000": BLACKWELL,
    "H100-PCIe": HOPPER,
    "H100": HOPPER,
    "H200": HOPPER,
    "B200": BLACKWELL,
    "MI300X": HOPPER,
}
ENGINES = {
    "llama-cpp": {"bf16", "q8-0", "q4-k-m"},
    "ollama": {"bf16", "q8-0", "q4-k-m"},
    "sglang": {"bf16", "int8", "int8-w8a16", "int4", "fp8", "mxfp4"},
    "tensorrt-llm": {"bf16", "int8", "int4", "fp8", "mxfp4"},
    "transformers": {"bf16", "int8", "int8-w8a16", "int4", "int4-asym", "fp8", "fp8-block"},
    "vllm": {"bf16", "int8", "int8-w8a16", "int4", "int4-asym", "fp8", "fp8-block", "mxfp4"},
}
VLLM_ON_A_PROCESSOR = {"fp8-block": "amx_tile", "int8-w8a16": "on GPUs only", "int4": "avx512f", "int4-asym": "avx512f"}


def test_the_support_table_is_complete() -> None:
    assert set(GPUS) == set(gpu_names()) - {"host"}
    assert sorted(ENGINES) == engine_names()
    assert {scheme.name for scheme in all_schemes()} == HOPPER


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gpu", GPUS)
def test_a_scheme_needs_engine_and_gpu_support(model: Callable[[str], PlannedModel], gpu: str, engine: str) -> None:
    for scheme in all_schemes():
        row = fit_row(model(LLAMA), FitRequest(engine=engine), find_gpu(gpu), scheme)
        refused = row.reason.startswith((f"{engine} does not serve", f"{gpu} does not run"))
        assert refused == (scheme.name not in GPUS[gpu] & ENGINES[engine]), f"{scheme.name}: {row.reason}"


@pytest.mark.parametrize("engine", ENGINES)
def test_on_a_processor_the_engine_profile_decides(
    model: Callable[[str], PlannedModel], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.fit.plan.processor_features", lambda: frozenset())
    for scheme in all_schemes():
        reason = fit_row(model(LLAMA), FitRequest(engine=engine), find_gpu("host"), scheme).reason
        assert reason.startswith(f"{engine} does not serve") == (scheme.name not in ENGINES[engine]), reason
        if engine == "vllm" and scheme.name in VLLM_ON_A_PROCESSOR:
            assert VLLM_ON_A_PROCESSOR[scheme.name] in reason
