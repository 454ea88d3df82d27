"""A line's suites judged at its margins, each with the scorings that it is held against."""

from __future__ import annotations

from tasks.evaluate.scoring.scores import ScoreCache, SuiteScores
from tasks.evaluate.verdict.comparable import weigh_suite
from tasks.evaluate.verdict.verdict import SuiteVerdict
from weighbridge.line import Line
from weighbridge.settings import load_settings


def judge_suites(
    line: Line,
    candidate: list[SuiteScores],
    production: list[SuiteScores] | None,
    again: list[SuiteScores] | None = None,
    alone: frozenset[str] = frozenset(),
) -> list[SuiteVerdict]:
    """Each scored suite's verdict at the line's margins, beside the noise floor where production was scored twice.

    Args:
        alone: suites that nothing else could be asked; they are scored for later.
    """
    twice = {scores.suite: scores for scores in again or []}
    margins = {use.name: use.margin for use in line.suites}
    theirs = {scores.suite: scores for scores in production or []}
    return [
        weigh_suite(
            scores,
            None if production is None or scores.suite in alone else theirs[scores.suite],
            margin=margins[scores.suite],
            confidence=line.confidence,
            earlier=earlier_scorings(theirs.get(scores.suite)),
            again=twice.get(scores.suite),
        )
        for scores in candidate
    ]


def earlier_scorings(production: SuiteScores | None) -> list[SuiteScores]:
    """Production's scorings of the same suite by other scorers or engines, from the book."""
    if production is None:
        return []
    return ScoreCache.of(load_settings()).by_other_scorers(
        artifact_digest=production.artifact_digest, suite_digest=production.suite_digest, scorer=production.scorer
    )


def may_pass(line: Line, candidate: list[SuiteScores], production: list[SuiteScores] | None) -> bool:
    """Whether the suites scored so far leave a candidate a chance: one that is not shown to be no worse ends it."""
    return all(one.outcome in ("non_inferior", "baseline") for one in judge_suites(line, candidate, production))
