"""Keys of the steps: a new version of what measures or scores gives the step another key, so that it runs again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.store import Artifact, Store
from tasks.evaluate.drift import distributions
from tasks.evaluate.score_steps import score_prompts
from tasks.evaluate.scoring.serving_scorer import ServingScorer
from tasks.evaluate.step import drift_check, forecast, weigh
from tasks.evaluate.suites.assertions import registry as assertions
from weighbridge.line import Line

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, object]:
    artifact = Artifact(line="smollm2", scheme="bf16", digest="a" * 64, repo="test/tiny", commit=COMMIT, size_bytes=1)
    published = artifact.model_copy(update={"digest": "b" * 64})
    scorer = ServingScorer(
        engine="toyworks 1 abc",
        prompt_log_probabilities=False,
        can_serve=lambda artifact: True,
        start_engine=lambda line, artifact, log: pytest.fail("no engine should be started"),
        store=Store(tmp_path / "store"),
    )
    return {
        "artifact": artifact,
        "line": Line.load("smollm2"),
        "production": None,
        "published": published,
        "reference": published,
        "scorer": scorer,
        "weights": published,
    }


def key_of(step: Callable[..., object], arguments: dict[str, object]) -> str:
    function: Any = step
    return str(function.cache_key_fn(None, arguments))


@pytest.mark.parametrize("step", [score_prompts, forecast, weigh])
def test_a_raised_version_of_the_assertions_changes_the_key(
    step: Callable[..., object], arguments: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of(step, arguments)
    assert key_of(step, arguments) == before
    monkeypatch.setattr(assertions, "VERSION", assertions.VERSION + 1)
    assertions._find_version.cache_clear()
    try:
        assert key_of(step, arguments) != before
    finally:
        assertions._find_version.cache_clear()


@pytest.mark.parametrize("step", [drift_check, weigh])
def test_a_raised_version_of_the_drift_measurement_changes_the_key(
    step: Callable[..., object], arguments: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of(step, arguments)
    monkeypatch.setattr(distributions, "VERSION", distributions.VERSION + 1)
    assert key_of(step, arguments) != before
