"""A line's suites judged at its margins: comparable first, then judged, with the noise floor beside the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks.evaluate.scoring.scores import ScoreCache, SuiteScores
from tasks.evaluate.verdict.comparable import changes, troubles_of, why_incomparable
from tasks.evaluate.verdict.outcomes import OUTCOMES
from tasks.evaluate.verdict.rescoring import far_from_earlier, flips_share
from tasks.evaluate.verdict.sensitivity import visible_loss, why_insensitive
from tasks.evaluate.verdict.verdict import SuiteVerdict, invalid_verdict, judge_suite
from weighbridge.line import Line

Judge = Callable[[SuiteScores, SuiteScores | None], SuiteVerdict]


def judge_suites(
    line: Line,
    cache: ScoreCache,
    candidate: Sequence[SuiteScores],
    production: Sequence[SuiteScores] | None,
    production_rescored: Sequence[SuiteScores] = (),
    unpaired_suites: frozenset[str] = frozenset(),
) -> list[SuiteVerdict]:
    """Judge each scored suite at the line's margins.

    Args:
        line: its suites have the margins.
        cache: has earlier scorings of production, by other scorers.
        candidate: the candidate's scores.
        production: production's scores; None while nothing serves.
        production_rescored: production scored a second time, for the noise floor.
        unpaired_suites: suites with scores of the candidate only; they are a baseline for later releases.
    """
    rescored = {scores.suite: scores for scores in production_rescored}
    margins = {use.name: use.margin for use in line.suites}
    paired = {scores.suite: scores for scores in production or []}
    return [
        weigh_suite(
            scores,
            None if production is None or scores.suite in unpaired_suites else paired[scores.suite],
            margin=margins[scores.suite],
            confidence=line.confidence,
            earlier=_earlier_scorings(paired.get(scores.suite), cache),
            production_rescored=rescored.get(scores.suite),
        )
        for scores in candidate
    ]


def may_pass(
    line: Line, cache: ScoreCache, candidate: Sequence[SuiteScores], production: Sequence[SuiteScores] | None
) -> bool:
    """Whether the candidate can still pass after the suites scored so far: each must be shown no worse."""
    return all(OUTCOMES[suite.outcome].passes for suite in judge_suites(line, cache, candidate, production))


def weigh_suite(
    candidate: SuiteScores,
    production: SuiteScores | None,
    *,
    margin: float,
    confidence: float,
    may_differ: frozenset[str] = frozenset(),
    earlier: Sequence[SuiteScores] = (),
    production_rescored: SuiteScores | None = None,
    judge: Judge | None = None,
) -> SuiteVerdict:
    """Judge one suite, if its two scorings are comparable.

    Args:
        candidate: the candidate's scores.
        production: production's scores; None while nothing serves.
        margin: as for `judge_suite`.
        confidence: as for `judge_suite`.
        may_differ: fields of `Conditions` that a person has allowed to differ.
        earlier: production's scorings of the same suite by other scorers or engines.
        production_rescored: production scored a second time, for the noise floor.
        judge: judges comparable scores; `judge_suite` by default.
    """
    judge = judge or (
        lambda scores, other: judge_suite(scores, other, margin=margin, confidence=confidence, may_differ=may_differ)
    )
    if production is None:
        return judge(candidate, None)
    notes = [_troubles_sentence(candidate, "The candidate"), _troubles_sentence(production, "Production")]
    reason = why_incomparable(candidate, production, may_differ)
    difference, words = far_from_earlier(production, earlier)
    if not reason and abs(difference) > margin:
        reason = f"{words}; find out what changed in the scoring before believing either."
    elif words:
        notes.append(f"{words[0].upper()}{words[1:]}.")
    if reason:
        verdict = invalid_verdict(candidate, production, reason, margin=margin, confidence=confidence)
    else:
        verdict = judge(candidate, production)
        blind = why_insensitive(candidate, production, margin=margin, confidence=confidence)
        if blind and verdict.outcome in ("non_inferior", "inconclusive"):
            # A regression was seen, so the suite can see one.
            verdict = invalid_verdict(candidate, production, blind, margin=margin, confidence=confidence)
        elif verdict.outcome == "non_inferior" and verdict.estimate is not None and verdict.low is not None:
            notes.append(
                f"The suite would show a loss of {max(-verdict.low, 0):.1%} or more, of the "
                f"{visible_loss(production):.1%} that production scores above chance."
            )
    return verdict.model_copy(
        update={
            "note": " ".join(filter(None, [verdict.note, *notes])),
            "changed": changes(candidate.conditions, production.conditions, may_differ),
            "noise_flips_share": flips_share(production, production_rescored) if production_rescored else None,
        }
    )


def _earlier_scorings(production: SuiteScores | None, cache: ScoreCache) -> list[SuiteScores]:
    if production is None:
        return []
    return cache.by_other_scorers(
        artifact_digest=production.artifact_digest, suite_digest=production.suite_digest, scorer=production.scorer
    )


def _troubles_sentence(scores: SuiteScores, side: str) -> str:
    sentence = troubles_of(scores).sentence
    return f"{side} gave {sentence}." if sentence else ""
