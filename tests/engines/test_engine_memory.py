"""What engines take beside weights and cache: every profile's data, and vLLM's own logs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tasks.engines.memory as engine_memory
from tasks.engines.memory import EngineProfile, engine_names, engine_profile, graphs_gib, non_torch_gib

from tasks.fit.hardware.gpus import gpu
from tasks.fit.memory.activation import activation_bytes
from tasks.fit.model.shape import ModelShape
from weighbridge.errors import FitOptionUnknown

GIB = 2**30
FILES = sorted((Path(engine_memory.__file__).parent / "profiles").glob("*.yaml"))


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def spans(engine: str) -> list[EngineProfile]:
    return engine_memory._profiles()[engine]


def test_every_file_is_an_engine() -> None:
    assert engine_names() == tuple(path.stem for path in FILES)
    assert {"vllm", "sglang", "tensorrt-llm", "llama-cpp", "ollama", "transformers"} <= set(engine_names())


@pytest.mark.parametrize("engine", [path.stem for path in FILES])
def test_profiles_are_sound(engine: str) -> None:
    profiles = spans(engine)
    for profile in profiles:
        assert len(profile.source) > 40 and profile.band_gib > 0 and not profile.nearest
        assert set(profile.schemes) <= set(scheme_names()) and "bf16" in profile.schemes
        assert "weights" in profile.inside and 1 in profile.non_torch_gib
    for earlier, later in itertools.pairwise(profiles):
        # In order, without overlap, and only the last is open.
        assert earlier.until and numbers(earlier.until) < numbers(later.since)
    assert not profiles[-1].until


@pytest.mark.parametrize("engine", [path.stem for path in FILES])
@pytest.mark.parametrize("name", ["T4", "A100-80", "H100", "B200"])
def test_every_profile_answers_for_every_size_of_gpu(engine: str, name: str) -> None:
    for profile in spans(engine):
        card = gpu(name)
        assert 0.4 < profile.share_of_memory(card) <= 1
        assert profile.step_tokens(card, 8192, None) > 0 and profile.step_tokens(card, 8192, 99) == 99
        assert profile.step_sequences(card, 4, None) > 0 and profile.step_sequences(card, 4, 7) == 7


@pytest.mark.parametrize(
    ("asked", "since", "nearest"),
    [
        (None, "0.20", False),
        ("0.19", "0.17", False),
        ("v0.19.1", "0.17", False),
        ("0.19.1rc2", "0.17", False),
        ("0.16.0", "0.12", False),
        ("0.6.3", "0.2", False),
        ("0.7.3", "0.2", False),
        ("0.20.0", "0.20", False),
        ("99", "0.20", False),
        # Older than all that is known: the oldest, and it says so.
    ],
)
def test_a_version_finds_its_profile(asked: str | None, since: str, nearest: bool) -> None:
    profile = engine_profile("vllm", asked)
    assert (profile.name, profile.since, profile.nearest) == ("vllm", since, nearest)


def test_an_engine_without_a_profile_takes_the_nearest() -> None:
    profile = engine_profile("new", "1.0")
    assert (profile.name, profile.nearest) == ("vllm", True)


def test_labels_name_the_versions() -> None:
    assert engine_profile("vllm", "0.18").label == "vllm 0.17 to 0.19"
    assert engine_profile("vllm", None).label == "vllm 0.20 and newer"
    assert engine_profile("llama-cpp", None).label == "llama-cpp"


# --- a step ---------------------------------------------------------------------------------


def activation_gib(shape: ModelShape, version: str = "0.19", **given: Any) -> float:
    step: dict[str, Any] = {"tokens": 8192, "sequences": 1024, "bytes_each": 2, "tp": 1, "answers": True}
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
        ("meta-llama--llama-3.1-8b-instruct", {"pipelined": True, "answers": False}, 1.1, 0.1),
    ],
)
def test_activations_of_vllms_logs(
    published_shape: Callable[[str], ModelShape], name: str, given: dict[str, Any], logged: float, within: float
) -> None:
    assert activation_gib(published_shape(name), **given) == pytest.approx(logged, abs=within)


def test_older_versions_took_more(llama: ModelShape) -> None:
    # vLLM up to 0.16: 4.76 GiB for the same step (llm-d Planner's published runs).
    assert activation_gib(llama, "0.16") == pytest.approx(4.76, abs=0.1)


def test_more_of_anything_never_takes_less(llama: ModelShape) -> None:
    for more in ({"tokens": 16_384}, {"sequences": 2048}, {"bytes_each": 4}, {"pipelined": True}):
        assert activation_gib(llama, **more) >= activation_gib(llama)
    assert activation_gib(llama, tokens=65_536) > activation_gib(llama)


def test_defaults_follow_the_size_of_the_gpu() -> None:
    vllm = engine_profile("vllm", "0.19")

    def step(name: str) -> tuple[int, int]:
        return vllm.step_tokens(gpu(name), 8192, None), vllm.step_sequences(gpu(name), 4, None)

    assert step("L4") == step("L40S") == (2048, 256)
    assert step("H100") == step("H200") == (8192, 1024)
    # A large A100 gets the small defaults (engine/arg_utils.py).
    assert step("A100-80") == (2048, 256)


def test_the_first_engine_stepped_over_a_whole_prompt() -> None:
    old, card = engine_profile("vllm", "0.6.3"), gpu("A100-80")
    assert old.step_tokens(card, 20_000, None) == 20_000
    assert old.step_tokens(card, 512, None) == 2048
    # Longer ones were cut into chunks of 512.
    assert old.step_tokens(card, 40_000, None) == 512


# --- the rest -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tp", "pp", "answers", "logged"),
    # vLLM 0.19.0's logs, as above.
    [(1, 1, True, 0.25), (2, 1, True, 2.07), (4, 1, True, 2.13), (1, 2, False, 0.07)],
)
def test_non_torch_memory_of_vllms_logs(tp: int, pp: int, answers: bool, logged: float) -> None:
    found = non_torch_gib(engine_profile("vllm", "0.19"), gpu("H100"), tp=tp, pp=pp, answers=answers)
    assert found == pytest.approx(logged, abs=0.02)


def test_between_known_numbers_of_gpus_the_smaller_counts() -> None:
    profile = engine_profile("vllm", "0.19")

    def at(tp: int) -> float:
        return non_torch_gib(profile, gpu("H100"), tp=tp, pp=1, answers=True)

    assert at(3) == at(2) and at(16) == at(8) and at(8) >= at(4) >= at(2) > at(1)


def test_graphs_grow_with_layers_and_experts() -> None:
    def graphs(**given: Any) -> float:
        asked: dict[str, Any] = {"layers": 32, "experts": False, "eager": False, **given}
        return graphs_gib(engine_profile("vllm", "0.19"), gpu(asked.pop("name", "H100")), **asked)

    assert 0 < graphs() < graphs(layers=80) and graphs(experts=True) > graphs()
    assert graphs(eager=True) == graphs(name="host") == 0


def test_on_a_processor_the_process_counts() -> None:
    profile = engine_profile("transformers", None)
    assert non_torch_gib(profile, gpu("host"), tp=1, pp=1, answers=True) == profile.host_process_gib > 0
    assert profile.share_of_memory(gpu("host")) == 0.8
    assert profile.number_bytes(gpu("host"), "BF16") == 4 and profile.number_bytes(gpu("H100"), "BF16") == 2


def test_from_0_20_on_graphs_lie_inside_the_share() -> None:
    assert "graphs" not in engine_profile("vllm", "0.19").inside
    newer = engine_profile("vllm", "0.21")
    assert "graphs" in newer.inside and newer.share_of_memory(gpu("H100")) == 0.92


def test_engines_share_a_gpu_each_in_their_own_way() -> None:
    meanings = {name: engine_profile(name, None).share_of for name in engine_names()}
    assert meanings["vllm"] == meanings["sglang"] == "physical"
    assert meanings["tensorrt-llm"] == "free"
    assert meanings["llama-cpp"] == meanings["ollama"] == "need"
    # SGLang's share holds weights and cache alone.
    assert engine_profile("sglang", None).inside == ("weights",)


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(FitOptionUnknown, match="'nightly' is no version of vllm"):
        engine_profile("vllm", "nightly")
