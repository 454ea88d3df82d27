"""The gate as a user meets it: sound engines pass, broken ones are refused by name, over real HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.serve.parity.gate import RECORD, keep_as_noise, pass_gate
from tasks.serve.parity.reference import Probe, Reference
from tests.serve.parity.parity_support import answering, make_probes, other_words, plan, with_noise
from weighbridge.errors import EngineDiverges, EngineFailed
from weighbridge.settings import load_settings

PROBES = make_probes()
REFERENCE = Reference(artifact_digest="a" * 64, context=64, scorer="", probes=PROBES, left_out=("No template.",))
ENGINES = ("transformers", "llama-cpp", "vllm")


def run_gate(
    url: str, folder: Path, engine: str = "transformers", pid: int = 1, reference: Reference = REFERENCE
) -> list[str]:
    messages: list[str] = []
    folder.mkdir(exist_ok=True)
    pass_gate(load_settings(), url, plan(engine), reference, folder, pid, messages.append)
    return messages


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_correct_engine_passes_and_its_distance_is_logged(tmp_path: Path, engine: str, noise: float) -> None:
    with answering(PROBES, with_noise(noise)) as (url, _):
        messages = run_gate(url, tmp_path / "engine", engine)
    assert messages[0] == "No template."
    assert "computes what the artifact does" in messages[1]
    assert "long/choice" in messages[1]
    assert ("long/top" in messages[1]) == (engine != "transformers")
    assert ("read/read" in messages[1]) == (engine == "vllm")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_wrong_on_long_prompts_is_refused_with_the_worst(tmp_path: Path, engine: str) -> None:
    def long_only(probe: Probe) -> Probe:
        return other_words(probe) if probe.question.kind == "long" else probe

    with answering(PROBES, long_only) as (url, _), pytest.raises(EngineDiverges, match=r"'long [0-3]': ") as refused:
        run_gate(url, tmp_path / "engine", engine)
    assert "neighbours" not in refused.value.what
    assert refused.value.exit_status == 13
    assert not (tmp_path / "engine" / RECORD).exists()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["short", "neighbours", "streamed", "chat"])
def test_a_fault_in_any_kind_of_prompt_is_refused(tmp_path: Path, engine: str, kind: str) -> None:
    def change(probe: Probe) -> Probe:
        return other_words(probe) if probe.question.kind == kind else probe

    with answering(PROBES, change) as (url, _), pytest.raises(EngineDiverges, match=f"{kind}/"):
        run_gate(url, tmp_path / "engine", engine)


def test_an_engine_without_the_stop_token_is_refused(tmp_path: Path) -> None:
    with (
        answering(PROBES, knows_the_end=False) as (url, _),
        pytest.raises(EngineDiverges, match=r"stop/choice.*went on with ' and so on'"),
    ):
        run_gate(url, tmp_path / "engine")


def test_an_engine_with_another_tokenization_is_refused(tmp_path: Path) -> None:
    with (
        answering(PROBES, tokens_added=1) as (url, _),
        pytest.raises(EngineDiverges, match="read 32 tokens where the artifact's tokenizer makes 31"),
    ):
        run_gate(url, tmp_path / "engine", "vllm")


def test_near_ties_may_be_resolved_differently(tmp_path: Path) -> None:
    """Greedy text would part at every one of these prompts."""

    def flipped(probe: Probe) -> Probe:
        if probe.question.kind == "stop":
            return probe
        first, second, *others = probe.choices
        near = second.model_copy(update={"log_probability": first.log_probability - 0.01})
        return probe.model_copy(update={"choices": (first, near, *others)})

    def answers(probe: Probe) -> Probe:
        if probe.question.kind == "stop":
            return probe
        first, second, *others = probe.choices
        return probe.model_copy(update={"choices": (second, first, *others)})

    tied = tuple(map(flipped, PROBES))
    with answering(tied, answers) as (url, _):
        run_gate(url, tmp_path / "engine", reference=REFERENCE.model_copy(update={"probes": tied}))


def test_an_engine_is_measured_again_only_after_a_restart(tmp_path: Path) -> None:
    with answering(PROBES) as (url, requests):
        run_gate(url, tmp_path / "engine")
        count = len(requests)
        run_gate(url, tmp_path / "engine")
        assert len(requests) == count
        run_gate(url, tmp_path / "engine", pid=2)
    assert len(requests) == 2 * count


def test_the_noise_of_production_narrows_what_is_allowed(tmp_path: Path) -> None:
    """An engine kind that has been exact so far is not to be loose all at once."""
    loose = with_noise(0.2)
    with answering(PROBES, loose) as (url, _):
        run_gate(url, tmp_path / "before", "llama-cpp")
    with answering(PROBES) as (url, _):
        run_gate(url, tmp_path / "production", "llama-cpp")
    keep_as_noise(load_settings(), "toy", tmp_path / "production")
    with answering(PROBES, loose) as (url, _):
        with pytest.raises(EngineDiverges, match="noise of production's engine"):
            run_gate(url, tmp_path / "after", "llama-cpp")
        # Of another kind of engine production says nothing.
        assert "default limits" in run_gate(url, tmp_path / "other", "vllm")[1]


def test_an_engine_that_returns_an_error_fails(tmp_path: Path) -> None:
    with answering(PROBES[:1]) as (url, _), pytest.raises(EngineFailed, match="failed a prompt of 30 tokens"):
        run_gate(url, tmp_path / "engine")
