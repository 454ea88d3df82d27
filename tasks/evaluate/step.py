"""The evaluate room's steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from registry.store import Artifact, Store
from tasks.evaluate.chat import Asking
from tasks.evaluate.chat import ask as ask_endpoint
from tasks.evaluate.comparable import weigh_suite
from tasks.evaluate.drift import (
    DriftReport,
    answer_signals,
    draw,
    flip_signal,
    held_documents,
    quick_look,
    text_digest,
)
from tasks.evaluate.drift.answers import seen_answers
from tasks.evaluate.facts import read_facts
from tasks.evaluate.harness import NOISE_BATCH_SIZE, GeneralScoring, score_general, score_suites, scorer_name
from tasks.evaluate.scores import ScoreBook, SuiteScores
from tasks.evaluate.suites import Suite, find_suite
from tasks.evaluate.verdict import Movement, SuiteVerdict, Verdict, judge
from tasks.steps import log_progress, run_logger, step
from weighbridge.line import Line


class Endpoint(Protocol):
    """What a launched engine must tell of itself."""

    @property
    def url(self) -> str:
        """Address without `/v1`."""


Launch = Callable[[Line, Artifact, Callable[[str], None]], AbstractContextManager[Endpoint]]
"""Starts (or finds) the engine that is to serve an artifact, and ends it again if it started it."""


def suites_of(plan: Line, kind: str) -> list[Suite]:
    """The line's suites of one kind, `general` or `regression`, in the line's order."""
    return [find_suite(use.name) for use in plan.suites if use.name.startswith(f"{kind}/")]


def _digests(plan: Line, kind: str) -> list[object]:
    return [suite.digest for suite in suites_of(plan, kind)]


@step(
    "score-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, plan, against: [
        artifact.digest,
        _digests(plan, "general"),
        scorer_name(),
        [[one.artifact_digest, plan.suites, plan.confidence] for one in against or []],
    ],
)
def score(artifact: Artifact, plan: Line, against: list[SuiteScores] | None = None) -> list[SuiteScores]:
    """Score an artifact on the line's lm-eval suites; what was scored before is taken from the book.

    Args:
        artifact: what is scored.
        plan: whose suites.
        against: production's scores; a suite that is not shown to be no worse than them spares the rest.
    """
    told: dict[str, Callable[[int, int], None]] = {}

    def progress(suite: str, done: int, total: int) -> None:
        told.setdefault(suite, log_progress(f"score {artifact.scheme} on {suite}"))(done, total)

    def cannot_pass(scores: SuiteScores) -> bool:
        return bool(against) and not may_pass(plan, [scores], against)

    suites = suites_of(plan, "general")
    return score_general(artifact.digest, Store().path(artifact), suites, ScoreBook(), progress, cannot_pass)


@step(
    "noise-floor-{artifact.short}",
    key=lambda artifact, plan: [artifact.digest, _digests(plan, "general"), scorer_name(NOISE_BATCH_SIZE)],
)
def noise_floor(artifact: Artifact, plan: Line) -> list[SuiteScores]:
    """Score production a second time, rounded otherwise: the flips between the two are nobody's loss."""
    scoring = GeneralScoring(artifact.digest, Store().path(artifact), batch_size=NOISE_BATCH_SIZE)
    told: dict[str, Callable[[int, int], None]] = {}

    def progress(suite: str, done: int, total: int) -> None:
        told.setdefault(suite, log_progress(f"noise floor on {suite}"))(done, total)

    return score_suites(scoring, suites_of(plan, "general"), ScoreBook(), progress=progress)


@step(
    "ask-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, plan, engine, launch: [artifact.digest, _digests(plan, "regression"), engine],
)
def ask(artifact: Artifact, plan: Line, engine: str, launch: Launch) -> list[SuiteScores]:
    """Ask the line's regression suites through the very engine and flags that will serve.

    Args:
        artifact: what is asked.
        plan: whose suites, and with which engine.
        engine: name, version and flags of the engine, as they are recorded.
        launch: starts that engine.
    """
    suites, logger = suites_of(plan, "regression"), run_logger()
    if not suites:
        return []
    facts = read_facts(Store().path(artifact))
    with launch(plan, artifact, logger.info) as endpoint:
        asking = Asking(
            endpoint=endpoint.url, model=plan.name, artifact_digest=artifact.digest, engine=engine, facts=facts
        )
        return [
            ask_endpoint(
                asking,
                suite,
                api_key=None,
                book=ScoreBook(),
                concurrency=plan.target.concurrency,
                progress=log_progress(f"ask {artifact.scheme} {suite.name}"),
            )
            for suite in suites
        ]


@step(
    "look-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, published, plan: [
        artifact.digest,
        published.digest,
        plan.bounds,
        plan.confidence,
        text_digest(held_documents()),
    ],
)
def look(artifact: Artifact, published: Artifact, plan: Line) -> DriftReport:
    """See whether quantizing left the same model, before hours are spent on weighing it.

    Args:
        artifact: the candidate.
        published: its own release, unquantized.
        plan: whose bounds.
    """
    store = Store()
    report = quick_look(
        store.path(artifact),
        store.path(published),
        bounds=plan.bounds,
        confidence=plan.confidence,
        candidate_digest=artifact.digest,
        production_digest=published.digest,
        progress=log_progress(f"look at {artifact.scheme}"),
    )
    run_logger().info("%s %s on held text: %s", artifact.scheme, artifact.short, report.sentence)
    return report


@step(
    "compare-answers-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, reference, plan, candidate, production: [
        artifact.digest,
        reference.commit,
        plan.bounds,
        plan.confidence,
        [[one.artifact_digest, one.suite_digest, one.scorer] for one in (*candidate, *production)],
    ],
)
def compare_answers(
    artifact: Artifact, reference: Artifact, plan: Line, candidate: list[SuiteScores], production: list[SuiteScores]
) -> DriftReport:
    """See how far the answers moved: flips over all suites, and what the regression suites' texts show.

    Another release is meant to answer otherwise: flips and lengths are only reported against one.

    Args:
        artifact: the candidate.
        reference: what it is weighed against.
        plan: whose bounds.
        candidate, production: the scores of the two.
    """
    bounds = plan.bounds
    if (artifact.repo, artifact.commit) != (reference.repo, reference.commit):
        bounds = bounds.model_copy(update={"max_flips_share": None, "max_length_ratio": None})
    theirs = {one.suite: one for one in production}
    pairs = [(theirs[one.suite], one) for one in candidate if one.suite in theirs]
    flips = flip_signal(pairs, bounds, plan.confidence)
    signals = [flips]
    spoken = [(before, after) for before, after in pairs if after.suite.startswith("regression/")]
    if spoken:
        was = [answer for before, _ in spoken for answer in seen_answers(before)]
        now = [answer for _, after in spoken for answer in seen_answers(after)]
        signals += answer_signals(was, now, bounds, plan.confidence)
    report = draw(
        signals,
        candidate_digest=artifact.digest,
        production_digest=reference.digest,
        must_show=[flips.name],
    )
    run_logger().info("%s %s, answers: %s", artifact.scheme, artifact.short, report.sentence)
    return report


def judge_suites(
    plan: Line,
    candidate: list[SuiteScores],
    production: list[SuiteScores] | None,
    again: list[SuiteScores] | None = None,
) -> list[SuiteVerdict]:
    """Each scored suite's verdict at the line's margins, beside the noise floor where production was scored twice."""
    twice = {scores.suite: scores for scores in again or []}
    margins = {use.name: use.margin for use in plan.suites}
    theirs = {scores.suite: scores for scores in production or []}
    return [
        weigh_suite(
            scores,
            theirs[scores.suite] if production is not None else None,
            margin=margins[scores.suite],
            confidence=plan.confidence,
            earlier=earlier_scorings(theirs.get(scores.suite)),
            again=twice.get(scores.suite),
        )
        for scores in candidate
    ]


def earlier_scorings(production: SuiteScores | None) -> list[SuiteScores]:
    """Production's scorings of the same suite by other scorers or engines, from the book."""
    if production is None:
        return []
    return ScoreBook().others(
        artifact_digest=production.artifact_digest, suite_digest=production.suite_digest, scorer=production.scorer
    )


def may_pass(plan: Line, candidate: list[SuiteScores], production: list[SuiteScores] | None) -> bool:
    """Whether the suites scored so far leave a candidate a chance: one that is not shown to be no worse ends it."""
    return all(one.outcome in ("non_inferior", "baseline") for one in judge_suites(plan, candidate, production))


@step(
    "verdict-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, plan, candidate, production, production_digest, against, drift, again: [
        artifact.digest,
        production_digest,
        against,
        [use.model_dump() for use in plan.suites],
        plan.confidence,
        [[one.suite_digest, one.scorer] for one in candidate],
        [[name, one] for name, one in drift.items()],
        [[one.suite_digest, one.scorer] for one in again],
    ],
)
def draw_verdict(
    artifact: Artifact,
    plan: Line,
    candidate: list[SuiteScores],
    production: list[SuiteScores] | None,
    production_digest: str | None,
    against: str,
    drift: dict[str, DriftReport],
    again: list[SuiteScores],
) -> Verdict:
    """Draw all suites together, and what moved beside accuracy."""
    suites = judge_suites(plan, candidate, production, again)
    moved = tuple(Movement(name=name, outcome=one.outcome, sentence=one.sentence) for name, one in drift.items())
    verdict = judge(artifact.digest, production_digest, suites, [use.name for use in plan.suites], against, moved)
    for one in suites:
        run_logger().info("%s: %s: %s", one.suite, one.outcome, one.reason)
    run_logger().info("%s %s: %s", artifact.scheme, artifact.short, verdict.sentence)
    return verdict
