"""Activation memory of one step, against vLLM's logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.engines import engine_profile
from tasks.fit.memory.activation import activation_bytes
from tasks.fit.model.shape import ModelShape
from weighbridge.units import GIB


def activation_gib(shape: ModelShape, version: str = "0.19", **given: Any) -> float:
    step: dict[str, Any] = {"tokens": 8192, "sequences": 1024, "bytes_each": 2, "tp": 1, "has_head": True}
    step |= {"pipelined": False, "towers": False, **given}
    return activation_bytes(engine_profile("vllm", version).activation, shape.text, **step) / GIB


@pytest.mark.parametrize(
    ("name", "given", "logged", "within"),
    [
        # "peak activation memory" of vLLM 0.19.0 on H100, 8,192 tokens and 1,024 sequences a step (llm-d Planner's
        # published sweep).
        ("codellama--codellama-7b-hf", {}, 0.77, 0.03),
        ("meta-llama--llama-3.1-8b-instruct", {}, 1.89, 0.03),
        ("meta-llama--llama-3.1-8b-instruct", {"tp": 4}, 1.89, 0.03),
        ("meta-llama--llama-3.1-8b-instruct", {"bytes_each": 4}, 2.21, 0.03),
        ("google--gemma-2-9b-it", {}, 3.65, 0.1),
        ("google--gemma-3-4b-it", {"towers": True}, 3.89, 0.1),
        ("google--gemma-3-27b-it", {"towers": True}, 3.99, 0.15),
        ("qwen--qwen3-30b-a3b", {}, 2.68, 0.1),
        ("moonshotai--kimi-vl-a3b-instruct", {"towers": True}, 2.92, 0.1),
        ("moonshotai--kimi-vl-a3b-instruct", {"towers": True, "tp": 2}, 2.85, 0.1),
        # A stage without the head samples nothing.
        ("meta-llama--llama-3.1-8b-instruct", {"pipelined": True, "has_head": False}, 1.1, 0.1),
    ],
)
def test_activations_match_vllm_logs(
    published_shape: Callable[[str], ModelShape], name: str, given: dict[str, Any], logged: float, within: float
) -> None:
    assert activation_gib(published_shape(name), **given) == pytest.approx(logged, abs=within)


def test_older_versions_need_more_activation_memory(llama: ModelShape) -> None:
    # vLLM up to 0.16: 4.76 GiB for the same step (llm-d Planner's published runs).
    assert activation_gib(llama, "0.16") == pytest.approx(4.76, abs=0.1)


def test_activation_memory_never_shrinks_as_inputs_grow(llama: ModelShape) -> None:
    for more in ({"tokens": 16_384}, {"sequences": 2048}, {"bytes_each": 4}, {"pipelined": True}):
        assert activation_gib(llama, **more) >= activation_gib(llama)
    assert activation_gib(llama, tokens=65_536) > activation_gib(llama)
