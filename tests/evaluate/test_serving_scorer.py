"""How a line's engine is tried: what scores general suites, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.answering import Answering
from registry.store import Artifact, Store
from tasks.evaluate.scoring.lm_eval_child import Remote
from tasks.evaluate.scoring.serving_scorer import Launched, Trial
from weighbridge.errors import SuiteNeedsMore
from weighbridge.line import Line

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def line() -> Line:
    return Line.load("smollm2")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return Store().adopt(folder, line="smollm2", scheme="bf16", repo="test/tiny", commit=COMMIT)


def trial(launched: Launched | None, prompt_log_probabilities: bool) -> Trial:
    @contextmanager
    def launch(line: Line, artifact: Artifact, tell: Callable[[str], None]) -> Iterator[Launched]:
        assert launched is not None, "nobody was to start an engine"
        yield launched

    return Trial("toyworks 1 abc", prompt_log_probabilities, lambda artifact: True, launch)


def test_an_engine_that_tells_prompts_scores_general_suites(line: Line, artifact: Artifact) -> None:
    with Answering(lambda _: "", model=line.name, echoes="log-probabilities") as toy:
        one = trial(toy, True)
        with one.scoring(line, artifact, print) as scoring:
            assert isinstance(scoring.model, Remote) and scoring.model.base == f"{toy.url}/v1"
            assert scoring.model.context == line.target.context
            assert scoring.scorer == one.scorer() and "toyworks 1 abc" in scoring.scorer
            assert scoring.conditions.engine == "toyworks 1 abc" and scoring.conditions.tokenizer
        assert one.scorer(5) != one.scorer()
    assert "scored through the engine that is to serve, toyworks 1 abc" in one.sentence


def test_an_engine_that_ignores_echo_is_refused_by_name(line: Line, artifact: Artifact) -> None:
    with (
        Answering(lambda _: "", model=line.name) as toy,
        pytest.raises(SuiteNeedsMore, match=r"toyworks 1 abc is to score general suites.*ignores `echo`"),
        trial(toy, True).scoring(line, artifact, print),
    ):
        pytest.fail("chance would have been scored")


def test_other_engines_leave_it_to_transformers_and_say_so(line: Line, artifact: Artifact) -> None:
    one = trial(None, False)
    with one.scoring(line, artifact, print) as scoring:
        assert scoring.model == Store().path(artifact)
        assert scoring.scorer == one.scorer() and "transformers" in scoring.scorer
    assert "scored by transformers on the same files" in one.sentence and "toyworks 1 abc" in one.sentence
