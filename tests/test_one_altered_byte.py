"""One byte of an artifact is altered in the store: whoever reads it refuses it by name, before anything else happens.

Engines, approvals and rollbacks are in tests/serve; downloads in tests/source; the commands in tests/cli.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.installation import Installation
from registry.store import Artifact, Store
from tasks.evaluate.compare_inputs import resolve_model
from tasks.evaluate.scoring.serving_scorer import ServingScorer, StartedEngine
from tasks.evaluate.step import drift_check
from tasks.fit.rows import FitReport
from tasks.fit.step import refit
from tasks.quantize import quantize
from tasks.serve.parity.reference import reference_for
from tasks.source.changes import changes_against
from tests.registry.store_support import make_artifact
from tests.serve.serve_support import body_of
from weighbridge.errors import ArtifactDamaged
from weighbridge.line import Line

ROOT = Path(__file__).parents[1]


class Engine:
    """A running engine, as far as scoring needs it."""

    url = "http://127.0.0.1:1"
    key = ""


@contextmanager
def start_engine(line: Line, artifact: Artifact, log: Callable[[str], None]) -> Iterator[StartedEngine]:
    yield Engine()


class Scene:
    """An installation with two artifacts, one of which is altered afterwards."""

    def __init__(self) -> None:
        self.installation, self.line = Installation.load(), Line.load("smollm2")
        self.store: Store = self.installation.store
        self.right = make_artifact(self.store, {"config.json": "{}", "model.safetensors": "right"}, line="smollm2")
        self.altered = make_artifact(self.store, {"config.json": "{}", "model.safetensors": "other"}, line="smollm2")
        weights = self.store.unverified_folder(self.altered) / "model/model.safetensors"
        weights.chmod(0o600)
        weights.write_text("otheR")

    def scorer(self, prompt_log_probabilities: bool) -> ServingScorer:
        return ServingScorer("toy", prompt_log_probabilities, lambda _: True, start_engine, self.store)


def score_locally(scene: Scene) -> None:
    with scene.scorer(False).lm_eval_scorer(scene.line, scene.altered, print):
        pass


def score_through_an_engine(scene: Scene) -> None:
    with scene.scorer(True).lm_eval_scorer(scene.line, scene.altered, print):
        pass


def drift(scene: Scene, candidate: Artifact, source: Artifact) -> None:
    body_of(drift_check)(scene.installation, candidate, source, scene.line)


def no_rows() -> FitReport:
    return FitReport.model_construct(rows=())  # type: ignore[call-arg]


READERS: dict[str, Callable[[Scene], object]] = {
    "quantize": lambda scene: quantize(scene.installation, scene.altered, "int8"),
    "candidate as published": lambda scene: quantize(scene.installation, scene.altered, "bf16"),
    "drift of the candidate": lambda scene: drift(scene, scene.altered, scene.right),
    "drift of the source": lambda scene: drift(scene, scene.right, scene.altered),
    "scoring by transformers": score_locally,
    "scoring through the engine": score_through_an_engine,
    "scoring of prompts": lambda scene: scene.scorer(True).chat_scorer(scene.line, scene.altered, Engine()),
    "fit of real sizes": lambda scene: body_of(refit)(scene.installation, no_rows(), [scene.altered], scene.line),
    "what changed, new": lambda scene: changes_against(scene.right, scene.altered, scene.store),
    "what changed, old": lambda scene: changes_against(scene.altered, scene.right, scene.store),
    "parity reference": lambda scene: reference_for(scene.installation.settings, scene.altered, 1024),
    "compare": lambda scene: resolve_model(scene.altered.uri, scene.installation.settings),
    "store sign": lambda scene: scene.store.sign(scene.altered),
    "store push": lambda scene: scene.store.push(scene.altered),
    "store verify": lambda scene: scene.store.verify(scene.altered),
}


@pytest.mark.parametrize("reader", READERS)
def test_an_altered_byte_is_refused_by(reader: str) -> None:
    scene = Scene()
    with pytest.raises(ArtifactDamaged, match=r"model\.safetensors"):
        READERS[reader](scene)
    assert set(scene.store.artifacts()) == {scene.right, scene.altered}, "nothing was signed"


def test_nobody_outside_the_store_knows_another_way_to_an_artifacts_files() -> None:
    """The launcher compares the engine's link with the place, after it verified the artifact."""
    other_ways = re.compile(r"unverified_folder|store_folder\s*/|store\.folder\s*/")
    allowed = {"tasks/serve/fleet/launch.py"}
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ("cli", "flows", "stack", "tasks", "registry", "examples")
        for path in (ROOT / room).rglob("*.py")
        if other_ways.search(path.read_text()) and "registry/store" not in path.as_posix()
    }
    assert found <= allowed
