"""Forecasts of duration and power before anything is scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.evaluate.forecast import forecast
from tasks.evaluate.scoring.scores import ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import find_suite
from weighbridge.line import Line, SuiteUse

REFERENCE = "a" * 64


@pytest.fixture
def line() -> Line:
    wide, narrow = SuiteUse(name="general/agreement", margin=0.2), SuiteUse(name="general/copying", margin=0.001)
    return Line.load("smollm2").model_copy(update={"suites": [wide, narrow]})


def test_a_suite_that_is_too_small_for_its_margin_is_reported(line: Line, tmp_path: Path) -> None:
    wide, narrow = forecast(line, None, lambda suite: "scorer 1", ScoreCache(tmp_path))
    assert not wide.too_small and "too small" not in wide.sentence
    assert narrow.too_small and "expect `inconclusive`" in narrow.sentence
    assert narrow.power.items_half > narrow.power.items == find_suite("general/copying").items
    assert wide.seconds is None and "never scored so far" in wide.sentence


def test_the_duration_is_that_of_the_reference_by_the_same_scorer(line: Line, tmp_path: Path) -> None:
    suite, cache = find_suite("general/agreement"), ScoreCache(tmp_path)
    scores = SuiteScores(
        suite=suite.name,
        suite_digest=suite.digest,
        artifact_digest=REFERENCE,
        scorer="scorer 1",
        items=(ItemScore(id="one", score=1.0),),
        seconds=150.0,
    )
    cache.keep(scores)
    first, second = forecast(line, REFERENCE, lambda suite: "scorer 1", cache)
    assert "about 2.5 minutes" in first.sentence and second.seconds is None
    (other, _) = forecast(line, REFERENCE, lambda suite: "scorer 2", cache)
    assert other.seconds is None
