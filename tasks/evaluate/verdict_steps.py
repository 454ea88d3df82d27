"""The steps after scoring: the drift of the answers, and the verdict."""

from __future__ import annotations

from registry.installation import Installation
from registry.store import Artifact
from tasks.evaluate.drift import DriftReport
from tasks.evaluate.drift.compare_answers import compare_answers as measure_answers
from tasks.evaluate.scoring.scores import ScoreCache, SuiteScores
from tasks.evaluate.verdict import judge_suites
from tasks.evaluate.verdict.verdict import Verdict
from tasks.evaluate.weigh import draw_verdict as draw_together
from tasks.steps import run_logger, step
from weighbridge.line import Line


@step(
    "compare-answers-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, reference, line, candidate, production: [
        artifact.digest,
        reference.digest,
        reference.commit,
        line.bounds,
        line.confidence,
        [[scores.artifact_digest, scores.suite_digest, scores.scorer] for scores in (*candidate, *production)],
    ],
)
def compare_answers(
    artifact: Artifact, reference: Artifact, line: Line, candidate: list[SuiteScores], production: list[SuiteScores]
) -> DriftReport:
    """Measure the drift of the answers: flips over all suites, and signals of the regression suites' texts."""
    report = measure_answers(artifact, reference, line, candidate, production)
    run_logger().info("%s %s, answers: %s", artifact.scheme, artifact.short, report.sentence)
    return report


@step(
    "verdict-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, line, candidate, production_digest, against, drift, production_rescored, unpaired_suites: [
        artifact.digest,
        production_digest,
        against,
        [use.model_dump() for use in line.suites],
        line.confidence,
        [[scores.suite_digest, scores.scorer] for scores in candidate],
        [[name, report] for name, report in drift.items()],
        [[scores.suite_digest, scores.scorer] for scores in production_rescored],
        sorted(unpaired_suites),
    ],
    version=2,
)
def draw_verdict(
    installation: Installation,
    artifact: Artifact,
    line: Line,
    candidate: list[SuiteScores],
    production: list[SuiteScores] | None,
    production_digest: str | None,
    against: str,
    drift: dict[str, DriftReport],
    production_rescored: list[SuiteScores],
    unpaired_suites: frozenset[str],
) -> Verdict:
    """Judge each suite and draw them together with the drift reports."""
    cache = ScoreCache.of(installation.settings)
    suites = judge_suites.judge_suites(line, cache, candidate, production, production_rescored, unpaired_suites)
    verdict = draw_together(line, artifact, suites, production_digest, against, drift)
    for suite in suites:
        run_logger().info("%s: %s: %s", suite.suite, suite.outcome, suite.reason)
    run_logger().info("%s %s: %s", artifact.scheme, artifact.short, verdict.sentence)
    return verdict
