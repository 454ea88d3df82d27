"""Weighing without a server: what is scored, in which order, and what a candidate that failed early is spared."""

from __future__ import annotations

import pytest

from registry.store import Artifact
from tasks.evaluate.drift import DriftReport, draw
from tasks.evaluate.drift.intervals import Interval
from tasks.evaluate.drift.signals import make_signal
from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.verdict.verdict import Verdict
from tasks.evaluate.weigh import draw_verdict, weigh
from weighbridge.line import Line


def artifact(scheme: str, digit: str) -> Artifact:
    return Artifact(line="toy", scheme=scheme, repo="org/toy", commit="c" * 40, digest=digit * 64, size_bytes=1)


PRODUCTION, WEIGHTS, CANDIDATE = artifact("int8", "1"), artifact("bf16", "0"), artifact("int4", "2")


def drift_report(kl_nats: float) -> DriftReport:
    interval = Interval(mean=kl_nats, low=kl_nats, high=kl_nats, units=16)
    signal = make_signal("KL", interval, unit="nats a token", bound=0.25)
    return draw([signal], candidate_digest="", production_digest="")


class RecordingWeigher:
    """Writes down each step and gives one-item scores."""

    scored_through = "scored by hand"

    def __init__(self, line: Line, serves_weights: bool = True, passes: bool = True) -> None:
        self.line, self.serves_weights, self.passes = line, serves_weights, passes
        self.steps: list[str] = []
        self.unpaired: frozenset[str] = frozenset()
        self.rescored: list[SuiteScores] = []

    def _scores(self, step: str, scored: Artifact) -> list[SuiteScores]:
        self.steps.append(f"{step} {scored.scheme}")
        suite = "regression/x" if step == "prompts" else "general/x"
        item = ItemScore(id="i", score=1.0)
        return [
            SuiteScores(
                suite=suite, suite_digest="s", artifact_digest=scored.digest, scorer="x", items=(item,), seconds=1.0
            )
        ]

    def can_serve(self, artifact: Artifact) -> bool:
        return self.serves_weights

    def score_tasks(self, artifact: Artifact, production: list[SuiteScores] | None = None) -> list[SuiteScores]:
        return self._scores("tasks", artifact)

    def score_prompts(self, artifact: Artifact) -> list[SuiteScores]:
        return self._scores("prompts", artifact)

    def noise_floor(self, production: Artifact) -> list[SuiteScores]:
        return self._scores("noise", production)

    def may_pass(self, candidate: list[SuiteScores], production: list[SuiteScores]) -> bool:
        return self.passes

    def compare_answers(
        self, artifact: Artifact, reference: Artifact, candidate: list[SuiteScores], production: list[SuiteScores]
    ) -> DriftReport:
        self.steps.append(f"answers {artifact.scheme} {reference.scheme}")
        return drift_report(0.1)

    def draw_verdict(
        self,
        artifact: Artifact,
        candidate: list[SuiteScores],
        production: list[SuiteScores] | None,
        production_digest: str | None,
        against: str,
        drift: dict[str, DriftReport],
        production_rescored: list[SuiteScores],
        unpaired_suites: frozenset[str],
    ) -> Verdict:
        self.unpaired, self.rescored = unpaired_suites, production_rescored
        return draw_verdict(self.line, artifact, [], production_digest, against, drift)


@pytest.fixture
def line() -> Line:
    return Line.load("smollm2").model_copy(update={"noise_floor": False})


def test_a_candidate_is_scored_beside_production_and_its_answers_are_compared(line: Line) -> None:
    weigher = RecordingWeigher(line)
    weighed = weigh(line, CANDIDATE, drift_report(0.1), PRODUCTION, WEIGHTS, weigher)
    assert weigher.steps == ["tasks int8", "tasks int4", "prompts int8", "prompts int4", "answers int4 int8"]
    assert list(weighed.drift) == ["distributions", "answers"]
    assert (weighed.verdict.against, weighed.verdict.production_digest) == ("production", PRODUCTION.digest)
    assert [scores.artifact_digest for scores in weighed.production_scores] == [PRODUCTION.digest] * 2
    assert weighed.scored_through == "scored by hand"


def test_a_candidate_that_drifted_too_far_is_not_scored_at_all(line: Line) -> None:
    weigher = RecordingWeigher(line)
    weighed = weigh(line, CANDIDATE, drift_report(0.5), PRODUCTION, WEIGHTS, weigher)
    assert weigher.steps == [] and weighed.verdict.outcome == "regression"
    assert list(weighed.drift) == ["distributions"] and weighed.candidate_scores == ()


def test_a_candidate_that_failed_a_general_suite_starts_no_engine(line: Line) -> None:
    weigher = RecordingWeigher(line, passes=False)
    weigh(line, CANDIDATE, drift_report(0.1), PRODUCTION, WEIGHTS, weigher)
    assert weigher.steps == ["tasks int8", "tasks int4", "answers int4 int8"]


def test_a_first_release_is_scored_once_and_not_compared(line: Line) -> None:
    weigher = RecordingWeigher(line.model_copy(update={"noise_floor": True}))
    weighed = weigh(weigher.line, WEIGHTS, None, None, WEIGHTS, weigher)
    assert weigher.steps == ["tasks bf16", "prompts bf16"]
    assert weighed.verdict.production_digest is None and weighed.production_scores == ()


def test_without_production_a_candidate_is_weighed_against_its_release(line: Line) -> None:
    weigher = RecordingWeigher(line.model_copy(update={"noise_floor": True}))
    weighed = weigh(weigher.line, CANDIDATE, drift_report(0.1), None, WEIGHTS, weigher)
    assert weigher.steps[-2:] == ["answers int4 bf16", "noise bf16"] and len(weigher.rescored) == 1
    assert weighed.verdict.against == "the release as published" and weigher.unpaired == frozenset()


def test_an_engine_that_cannot_serve_the_release_leaves_its_prompts_unpaired(line: Line) -> None:
    weigher = RecordingWeigher(line, serves_weights=False)
    weigh(line, CANDIDATE, drift_report(0.1), None, WEIGHTS, weigher)
    assert "prompts bf16" not in weigher.steps and "prompts int4" in weigher.steps
    assert weigher.unpaired == {use.name for use in line.suites if use.name.startswith("regression/")} != frozenset()
