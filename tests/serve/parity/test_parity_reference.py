"""The reference that transformers computes of a tiny model, and where it is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry.store import Artifact, Store
from tasks.quantize.run import quantize_folder
from tasks.serve.parity import reference
from tasks.serve.parity.reference import Reference, reference_for
from tests.support.tiny_gguf import write_telling_release
from weighbridge.errors import ArtifactDamaged, ScoringFailed
from weighbridge.settings import load_settings

pytestmark = pytest.mark.timeout(900)
CONTEXT = 1024
Made = tuple[Path, Artifact, Reference]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in Q8_0 with varied next tokens that depend on all previous ones."""
    home = tmp_path_factory.mktemp("tiny")
    release = write_telling_release(home / "release", CONTEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHBRIDGE_HOME", str(home / "home"))
        quantize_folder(load_settings(), release, home / "model", "q8-0")
    return home / "model"


def adopt(folder: Path) -> Artifact:
    staging = Store().staging("toy", "make")
    shutil.copytree(folder, staging, dirs_exist_ok=True)
    return Store().adopt(staging, line="toy", scheme="q8-0", repo="org/toy", commit="c" * 40)


@pytest.fixture(scope="module")
def computed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Home folder, artifact and reference of the tiny model."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHBRIDGE_HOME", str(home))
        artifact = adopt(model)
        return home, artifact, reference_for(load_settings(), artifact, CONTEXT)


def test_the_reference_has_every_kind_of_prompt_within_the_context(computed: Made) -> None:
    _, _, found = computed
    by_kind: dict[str, list[int]] = {}
    for probe in found.probes:
        by_kind.setdefault(probe.question.kind, []).append(probe.tokens)
    assert {"short", "neighbours", "streamed", "chat", "long", "read"} <= set(by_kind)
    assert max(by_kind["long"]) > 0.85 * CONTEXT
    assert max(count for tokens in by_kind.values() for count in tokens) < CONTEXT
    assert len(set(by_kind["neighbours"])) > 5
    # Random weights never end an answer, and the reference reports what is not checked.
    assert ("stop" in by_kind) != bool([message for message in found.left_out if "stop token" in message])


def test_the_reference_agrees_with_the_model(computed: Made, model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, gguf_file="model.gguf", dtype=torch.float32).eval()
    for kind in ("short", "long", "read"):
        probe = next(probe for probe in computed[2].probes if probe.question.kind == kind)
        ids = tokenizer(probe.question.text, return_tensors="pt")["input_ids"]
        assert ids.shape[1] == probe.tokens
        with torch.inference_mode():
            logs = loaded(ids).logits[0].double().log_softmax(-1)
        assert probe.choices[0].log_probability == pytest.approx(float(logs[-1].max()), abs=1e-3)
        if kind == "read":
            own = [float(row[id]) for row, id in zip(logs, ids[0, 1:])]
            assert list(probe.prompt_log_probabilities) == pytest.approx(own, abs=1e-3)


def test_the_reference_is_computed_once_from_intact_weights(computed: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    home, artifact, found = computed
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(home))
    monkeypatch.setattr(reference, "run_child", lambda *_: pytest.fail("made again"))
    assert reference_for(load_settings(), artifact, CONTEXT) == found
    (Store().unverified_folder(artifact) / "model/config.json").touch()
    file = Store().unverified_folder(artifact) / "model/README.md"
    before = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(b"changed")
    try:
        with pytest.raises(ArtifactDamaged):
            reference_for(load_settings(), artifact, 2 * CONTEXT)
    finally:
        file.write_bytes(before)


def test_a_model_that_fails_to_load_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ScoringFailed, match="no parity reference"):
        reference_for(load_settings(), adopt(folder), CONTEXT)
