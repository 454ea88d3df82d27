"""The scorer of a release: what scores general suites, and what the report says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.answering import Answering
from registry.store import Artifact, Store
from tasks.evaluate.scoring.lm_eval_child import RemoteModel
from tasks.evaluate.scoring.serving_scorer import ServingScorer, StartedEngine
from weighbridge.errors import SuiteNeedsMore
from weighbridge.line import Line

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def line() -> Line:
    return Line.load("smollm2")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def artifact(tmp_path: Path, store: Store) -> Artifact:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return store.adopt(folder, line="smollm2", scheme="bf16", repo="test/tiny", commit=COMMIT)


def serving_scorer(store: Store, engine: StartedEngine | None, prompt_log_probabilities: bool) -> ServingScorer:
    @contextmanager
    def start_engine(line: Line, artifact: Artifact, log: Callable[[str], None]) -> Iterator[StartedEngine]:
        assert engine is not None, "no engine should be started"
        yield engine

    return ServingScorer("toyworks 1 abc", prompt_log_probabilities, lambda artifact: True, start_engine, store)


def test_general_suites_are_scored_through_an_engine_with_prompt_log_probabilities(
    line: Line, artifact: Artifact, store: Store
) -> None:
    with Answering(lambda _: "", model=line.name, echoes="log-probabilities") as toy:
        scorer = serving_scorer(store, toy, True)
        with scorer.lm_eval_scorer(line, artifact, print) as lm_eval:
            assert isinstance(lm_eval.model, RemoteModel) and lm_eval.model.base == f"{toy.url}/v1"
            assert lm_eval.model.context == line.target.context
            assert lm_eval.name == scorer.lm_eval_name() and "toyworks 1 abc" in lm_eval.name
            assert lm_eval.conditions.engine == "toyworks 1 abc" and lm_eval.conditions.tokenizer
        assert scorer.lm_eval_name(5) != scorer.lm_eval_name()
    assert "scored through the engine that will serve, toyworks 1 abc" in scorer.sentence


def test_an_engine_that_ignores_echo_is_refused_by_name(line: Line, artifact: Artifact, store: Store) -> None:
    with (
        Answering(lambda _: "", model=line.name) as toy,
        pytest.raises(SuiteNeedsMore, match=r"toyworks 1 abc is needed for general suites.*ignores `echo`"),
        serving_scorer(store, toy, True).lm_eval_scorer(line, artifact, print),
    ):
        pytest.fail("scores at the level of chance would have been taken")


def test_other_engines_leave_general_suites_to_transformers_and_say_so(
    line: Line, artifact: Artifact, store: Store
) -> None:
    scorer = serving_scorer(store, None, False)
    with scorer.lm_eval_scorer(line, artifact, print) as lm_eval:
        assert lm_eval.model == store.path(artifact)
        assert lm_eval.name == scorer.lm_eval_name() and "transformers" in lm_eval.name
    assert "scored by transformers on the same files" in scorer.sentence and "toyworks 1 abc" in scorer.sentence
