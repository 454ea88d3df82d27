"""Engines' memory profiles: plausible data, the choice by version, and vLLM's logs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tasks.engines import EngineProfile, engine, engine_names, engine_profile, graphs_gib, non_torch_gib
from tasks.fit.hardware.gpus import gpu
from tasks.schemes import all_schemes
from weighbridge.errors import EngineUnknown, FitOptionUnknown


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def spans(name: str) -> tuple[EngineProfile, ...]:
    return engine(name).memory


def test_all_known_engines_have_a_profile() -> None:
    assert {"vllm", "sglang", "tensorrt-llm", "llama-cpp", "ollama", "transformers"} <= set(engine_names())


@pytest.mark.parametrize("engine", engine_names())
def test_profiles_are_plausible(engine: str) -> None:
    profiles = spans(engine)
    for profile in profiles:
        assert profile.name == engine and len(profile.source) > 40 and profile.band_gib > 0 and not profile.nearest
        assert set(profile.kernels) <= {scheme.kernel for scheme in all_schemes()}
        assert set(profile.processor_needs) <= set(profile.kernels)
        assert "weights" in profile.inside and 1 in profile.non_torch_gib
    for earlier, later in itertools.pairwise(profiles):
        # In order, without overlap, and only the last is open.
        assert earlier.until and numbers(earlier.until) < numbers(later.since)
    assert not profiles[-1].until


@pytest.mark.parametrize("engine", engine_names())
@pytest.mark.parametrize("name", ["T4", "A100-80", "H100", "B200"])
def test_profiles_cover_every_gpu_size(engine: str, name: str) -> None:
    for profile in spans(engine):
        size = gpu(name)
        assert 0.4 < profile.share_of_memory(size) <= 1
        assert profile.step_tokens(size, 8192, None) > 0 and profile.step_tokens(size, 8192, 99) == 99
        assert profile.step_sequences(size, 4, None) > 0 and profile.step_sequences(size, 4, 7) == 7


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
        # Older than every profile: the oldest, marked as nearest.
    ],
)
def test_a_version_finds_its_profile(asked: str | None, since: str, nearest: bool) -> None:
    profile = engine_profile("vllm", asked)
    assert (profile.name, profile.since, profile.nearest) == ("vllm", since, nearest)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(EngineUnknown, match=r"no engine called 'new'.*vllm"):
        engine_profile("new", "1.0")


def test_labels_name_the_versions() -> None:
    assert engine_profile("vllm", "0.18").label == "vllm 0.17 to 0.19"
    assert engine_profile("vllm", None).label == "vllm 0.20 and newer"
    assert engine_profile("llama-cpp", None).label == "llama-cpp"


def test_defaults_follow_gpu_size() -> None:
    vllm = engine_profile("vllm", "0.19")

    def step(name: str) -> tuple[int, int]:
        return vllm.step_tokens(gpu(name), 8192, None), vllm.step_sequences(gpu(name), 4, None)

    assert step("L4") == step("L40S") == (2048, 256)
    assert step("H100") == step("H200") == (8192, 1024)
    # A large A100 gets the small defaults (engine/arg_utils.py).
    assert step("A100-80") == (2048, 256)


def test_vllm_v0_steps_over_a_whole_prompt() -> None:
    old, a100 = engine_profile("vllm", "0.6.3"), gpu("A100-80")
    assert old.step_tokens(a100, 20_000, None) == 20_000
    assert old.step_tokens(a100, 512, None) == 2048
    # Longer prompts were split into chunks of 512.
    assert old.step_tokens(a100, 40_000, None) == 512


@pytest.mark.parametrize(
    ("tp", "pp", "has_head", "logged"),
    # vLLM 0.19.0's logs, as above.
    [(1, 1, True, 0.25), (2, 1, True, 2.07), (4, 1, True, 2.13), (1, 2, False, 0.07)],
)
def test_non_torch_memory_matches_vllm_logs(tp: int, pp: int, has_head: bool, logged: float) -> None:
    found = non_torch_gib(engine_profile("vllm", "0.19"), gpu("H100"), tp=tp, pp=pp, has_head=has_head)
    assert found == pytest.approx(logged, abs=0.02)


def test_an_unlisted_gpu_count_uses_the_next_smaller() -> None:
    profile = engine_profile("vllm", "0.19")

    def at(tp: int) -> float:
        return non_torch_gib(profile, gpu("H100"), tp=tp, pp=1, has_head=True)

    assert at(3) == at(2) and at(16) == at(8) and at(8) >= at(4) >= at(2) > at(1)


def test_graphs_grow_with_layers_and_experts() -> None:
    def graphs(**given: Any) -> float:
        asked: dict[str, Any] = {"layers": 32, "experts": False, "eager": False, **given}
        return graphs_gib(engine_profile("vllm", "0.19"), gpu(asked.pop("name", "H100")), **asked)

    assert 0 < graphs() < graphs(layers=80) and graphs(experts=True) > graphs()
    assert graphs(eager=True) == graphs(name="host") == 0


def test_on_a_processor_the_process_memory_counts() -> None:
    profile = engine_profile("transformers", None)
    assert non_torch_gib(profile, gpu("host"), tp=1, pp=1, has_head=True) == profile.host_process_gib > 0
    assert profile.share_of_memory(gpu("host")) == 0.8
    assert profile.number_bytes(gpu("host"), "BF16") == 4 and profile.number_bytes(gpu("H100"), "BF16") == 2


def test_since_vllm_0_20_graphs_lie_inside_the_share() -> None:
    assert "graphs" not in engine_profile("vllm", "0.19").inside
    newer = engine_profile("vllm", "0.21")
    assert "graphs" in newer.inside and newer.share_of_memory(gpu("H100")) == 0.92


def test_engines_take_different_shares_of_a_gpu() -> None:
    meanings = {name: engine_profile(name, None).share_of for name in engine_names()}
    assert meanings["vllm"] == meanings["sglang"] == "physical"
    assert meanings["tensorrt-llm"] == "free"
    assert meanings["llama-cpp"] == meanings["ollama"] == "need"
    # SGLang's share holds only weights and cache.
    assert engine_profile("sglang", None).inside == ("weights",)


def test_an_invalid_version_is_refused() -> None:
    with pytest.raises(FitOptionUnknown, match="'nightly' is no version of vllm"):
        engine_profile("vllm", "nightly")
