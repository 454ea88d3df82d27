"""What transformers says of a tiny model, kept with it, and the real llama.cpp server held against it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from benchmarks.parity_faults import other_tokenizer, shuffled_groups
from registry.store import Artifact, Store
from tasks.quantize.run import quantize_folder
from tasks.serve.engines import EnginePlan
from tasks.serve.engines.llama_cpp import Engine
from tasks.serve.parity import reference
from tasks.serve.parity.gate import pass_gate
from tasks.serve.parity.reference import Reference, reference_for
from tests.support.tiny_gguf import write_telling_release
from weighbridge.errors import ArtifactDamaged, EngineDiverges, ScoringFailed

pytestmark = pytest.mark.timeout(900)
CONTEXT = 1024


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in Q8_0 whose next tokens differ and whose tokens hear each other."""
    home = tmp_path_factory.mktemp("tiny")
    release = write_telling_release(home / "release", CONTEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHBRIDGE_HOME", str(home / "home"))
        quantize_folder(release, home / "model", "q8-0")
    return home / "model"


def adopt(folder: Path) -> Artifact:
    staging = Store().staging("toy", "make")
    shutil.copytree(folder, staging, dirs_exist_ok=True)
    return Store().adopt(staging, line="toy", scheme="q8-0", repo="org/toy", commit="c" * 40)


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact, Reference]:
    """Its reference, and the home that keeps it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHBRIDGE_HOME", str(home))
        artifact = adopt(model)
        return home, artifact, reference_for(artifact, CONTEXT)


def test_every_kind_of_prompt_that_the_model_can_be_asked_is_there_and_fits(made):
    _, _, found = made
    by_kind: dict[str, list[int]] = {}
    for probe in found.probes:
        by_kind.setdefault(probe.question.kind, []).append(probe.tokens)
    assert {"short", "neighbours", "streamed", "chat", "long", "read"} <= set(by_kind)
    assert max(by_kind["long"]) > 0.85 * CONTEXT
    assert max(one for tokens in by_kind.values() for one in tokens) < CONTEXT
    assert len(set(by_kind["neighbours"])) > 5
    # Random weights end no answer, and the user is told what that leaves unchecked.
    assert ("stop" in by_kind) != bool([one for one in found.left_out if "stop token" in one])


def test_it_says_what_the_model_says(made, model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, gguf_file="model.gguf", dtype=torch.float32).eval()
    for kind in ("short", "long", "read"):
        probe = next(one for one in made[2].probes if one.question.kind == kind)
        ids = tokenizer(probe.question.text, return_tensors="pt")["input_ids"]
        assert ids.shape[1] == probe.tokens
        with torch.inference_mode():
            logs = loaded(ids).logits[0].double().log_softmax(-1)
        assert probe.choices[0].log_probability == pytest.approx(float(logs[-1].max()), abs=1e-3)
        if kind == "read":
            own = [float(row[id]) for row, id in zip(logs, ids[0, 1:])]
            assert list(probe.prompt_log_probabilities) == pytest.approx(own, abs=1e-3)


def test_it_is_made_once_and_of_sound_weights_only(made, monkeypatch):
    home, artifact, found = made
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(home))
    monkeypatch.setattr(reference, "run_child", lambda *_: pytest.fail("made again"))
    assert reference_for(artifact, CONTEXT) == found
    (Store().path(artifact) / "config.json").touch()
    file = Store().path(artifact) / "README.md"
    before = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(b"changed")
    try:
        with pytest.raises(ArtifactDamaged):
            reference_for(artifact, 2 * CONTEXT)
    finally:
        file.write_bytes(before)


def test_a_model_that_does_not_load_is_named(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ScoringFailed, match="not known"):
        reference_for(adopt(folder), CONTEXT)


@contextmanager
def served(folder: Path, log: Path) -> Iterator[tuple[str, EnginePlan]]:
    plan = EnginePlan(engine="llama-cpp", engine_version="1", model_name="toy", context=CONTEXT, concurrency=4)
    port = random.randrange(30000, 40000)
    spec = Engine().launch(plan, folder, "127.0.0.1", port)
    with log.open("wb") as file:
        server = subprocess.Popen(spec.command, env={**os.environ, **spec.environment}, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 300
        while not _healthy(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", plan
    finally:
        server.terminate()
        server.wait(timeout=30)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def test_llama_cpp_passes_with_the_artifact(made, model, tmp_path):
    told: list[str] = []
    with served(model, tmp_path / "log") as (url, plan):
        pass_gate(url, plan, made[2], tmp_path, 1, told.append)
    assert "computes what the artifact says" in told[-1]
    assert "neighbours/top" in told[-1]


@pytest.mark.parametrize("damage", [shuffled_groups, other_tokenizer])
def test_llama_cpp_is_refused_with_a_damaged_one(made, model, tmp_path, damage: Callable[[Path], None]):
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    damage(broken / "model.gguf")
    with served(broken, tmp_path / "log") as (url, plan), pytest.raises(EngineDiverges, match="worst of"):
        pass_gate(url, plan, made[2], tmp_path, 1, lambda _: None)
