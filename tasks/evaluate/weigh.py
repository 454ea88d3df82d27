"""Weigh a candidate: which models are scored on what, in which order, and when a candidate has failed early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from registry.store import Artifact
from tasks.evaluate.drift import DriftReport
from tasks.evaluate.scoring.scores import SuiteScores
from tasks.evaluate.suites.suite import Suite, find_suite
from tasks.evaluate.verdict.verdict import Movement, SuiteVerdict, Verdict, judge
from tasks.quantize.until_close import Attempt
from weighbridge.line import Line


class Weighed(BaseModel):
    """An artifact with its verdict and the scores behind it."""

    model_config = ConfigDict(frozen=True)

    artifact: Artifact
    verdict: Verdict
    candidate_scores: tuple[SuiteScores, ...]
    production_scores: tuple[SuiteScores, ...]
    """Empty for a line's first release."""
    drift: dict[str, DriftReport] = {}
    """Drift beside accuracy: `distributions` and `answers`."""
    attempts: tuple[Attempt, ...] = ()
    """Quantization methods that were tried, from the cheapest up; the candidate is the closest to the release."""
    scored_through: str = ""
    """A sentence: what scored the general suites, and what that leaves open."""

    def with_attempts(self, attempts: tuple[Attempt, ...]) -> Weighed:
        """The same with the methods that were tried; they do not change the verdict, nor the key of its step."""
        return self.model_copy(update={"attempts": attempts})


class Weigher(Protocol):
    """The steps of weighing on one line, each of which may take its result from a cache."""

    @property
    def scored_through(self) -> str:
        """A sentence: what scores the general suites, and what that leaves open."""

    def can_serve(self, artifact: Artifact) -> bool:
        """Whether the line's engine reads an artifact's file format."""

    def score_tasks(self, artifact: Artifact, production: list[SuiteScores] | None = None) -> list[SuiteScores]:
        """Score an artifact on the general suites; with production's scores, stop at the first suite that fails."""

    def score_prompts(self, artifact: Artifact) -> list[SuiteScores]:
        """Score an artifact on the regression suites through the line's engine."""

    def noise_floor(self, production: Artifact) -> list[SuiteScores]:
        """Score production a second time."""

    def compare_answers(
        self, artifact: Artifact, reference: Artifact, candidate: list[SuiteScores], production: list[SuiteScores]
    ) -> DriftReport:
        """Measure the drift of the answers."""

    def may_pass(self, candidate: list[SuiteScores], production: list[SuiteScores]) -> bool:
        """Whether the suites scored so far leave the candidate a chance."""

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
        """Judge all suites and draw them together."""


def weigh(
    line: Line,
    artifact: Artifact,
    drift: DriftReport | None,
    production: Artifact | None,
    weights: Artifact,
    weigher: Weigher,
) -> Weighed:
    """Weigh a candidate against production; before there is any, against the release as published.

    A candidate that drifted too far from its own release, or that fails a general suite, is scored no further, and no
    engine is started for it.

    Args:
        line: its suites, margins and bounds.
        artifact: the candidate.
        drift: the drift check after quantization; None for the release as published.
        production: the artifact that serves; None before there is any.
        weights: the release as published.
        weigher: the steps.
    """
    reference = production or weights
    first_of_line = production is None and artifact.digest == weights.digest
    against = "production" if production else "the release as published"
    reference_digest = None if first_of_line else reference.digest
    drifts = {} if drift is None else {"distributions": drift}
    if drift is not None and drift.stops:
        verdict = weigher.draw_verdict(artifact, [], [], reference_digest, against, drifts, [], frozenset())
        return Weighed(artifact=artifact, verdict=verdict, candidate_scores=(), production_scores=(), drift=drifts)
    # An engine that reads only GGUF cannot serve the release as published: then the candidate's answers are a baseline.
    paired = production is not None or weigher.can_serve(reference)
    reference_scores = weigher.score_tasks(reference)
    scores = reference_scores if artifact == reference else weigher.score_tasks(artifact, reference_scores)
    if weigher.may_pass(scores, reference_scores):
        answered = weigher.score_prompts(reference) if paired else []
        reference_scores = reference_scores + answered
        scores = scores + (answered if artifact == reference else weigher.score_prompts(artifact))
    if artifact != reference:
        drifts["answers"] = weigher.compare_answers(artifact, reference, scores, reference_scores)
    rescored = weigher.noise_floor(reference) if line.noise_floor and not first_of_line else []
    unpaired = frozenset() if paired else frozenset(suite.name for suite in suites_of(line, "regression"))
    production_scores = None if first_of_line else reference_scores
    verdict = weigher.draw_verdict(
        artifact, scores, production_scores, reference_digest, against, drifts, rescored, unpaired
    )
    return Weighed(
        artifact=artifact,
        verdict=verdict,
        candidate_scores=tuple(scores),
        production_scores=tuple(production_scores or ()),
        drift=drifts,
        scored_through=weigher.scored_through,
    )


def draw_verdict(
    line: Line,
    artifact: Artifact,
    suites: list[SuiteVerdict],
    production_digest: str | None,
    against: str,
    drift: dict[str, DriftReport],
) -> Verdict:
    """Draw the suites' verdicts and the drift reports together."""
    movements = tuple(
        Movement(name=name, outcome=report.outcome, sentence=report.sentence) for name, report in drift.items()
    )
    return judge(artifact.digest, production_digest, suites, [use.name for use in line.suites], against, movements)


def suites_of(line: Line, kind: str) -> list[Suite]:
    """The line's suites of one kind, `general` or `regression`, in the line's order."""
    return [find_suite(use.name) for use in line.suites if use.name.startswith(f"{kind}/")]


def suite_digests(line: Line, kinds: Sequence[str] = ("general", "regression")) -> list[object]:
    """Content digests of the line's suites, for the key of a step."""
    return [suite.digest for kind in kinds for suite in suites_of(line, kind)]
