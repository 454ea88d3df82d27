"""The drift of a candidate's answers on the line's suites: flips over all suites, and signals of the answers' text."""

from __future__ import annotations

from collections.abc import Sequence

from registry.store import Artifact
from tasks.evaluate.drift.answers import answer_signals, flip_signal, item_answers
from tasks.evaluate.drift.report import DriftReport, draw
from tasks.evaluate.scoring.scores import SuiteScores
from weighbridge.line import Line


def compare_answers(
    artifact: Artifact,
    reference: Artifact,
    line: Line,
    candidate: Sequence[SuiteScores],
    production: Sequence[SuiteScores],
) -> DriftReport:
    """Measure how far the answers moved: flips over all suites, and signals of the regression suites' texts.

    Another release is meant to answer otherwise. Against one, flips and lengths are reported without a bound.

    Args:
        artifact: the candidate.
        reference: the artifact that it is weighed against.
        line: its bounds and confidence.
        candidate: the candidate's scores.
        production: the reference's scores.
    """
    bounds = line.bounds
    if (artifact.repo, artifact.commit) != (reference.repo, reference.commit):
        bounds = bounds.model_copy(update={"max_flips_share": None, "max_length_ratio": None})
    production_scores = {scores.suite: scores for scores in production}
    pairs = [(production_scores[scores.suite], scores) for scores in candidate if scores.suite in production_scores]
    flips = flip_signal(pairs, bounds, line.confidence)
    signals = [flips]
    prompts = [(before, after) for before, after in pairs if after.suite.startswith("regression/")]
    if prompts:
        before = [answer for scores, _ in prompts for answer in item_answers(scores)]
        after = [answer for _, scores in prompts for answer in item_answers(scores)]
        signals += answer_signals(before, after, bounds, line.confidence)
    return draw(
        signals,
        candidate_digest=artifact.digest,
        production_digest=reference.digest,
        must_show=[flips.name],
    )
