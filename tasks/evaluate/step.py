"""The evaluate room's steps."""

from __future__ import annotations

from collections.abc import Callable

from registry.store import Artifact, Store
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
from tasks.evaluate.forecast import Forecast
from tasks.evaluate.forecast import forecast as foresee
from tasks.evaluate.scoring.chat import chat_scorer_name, score_by_chat
from tasks.evaluate.scoring.lm_eval import NOISE_BATCH_SIZE, score_by_lm_eval
from tasks.evaluate.scoring.scores import ScoreCache, SuiteScores
from tasks.evaluate.scoring.serving_scorer import ServingScorer
from tasks.evaluate.suites.suite import Suite, find_suite
from tasks.evaluate.verdict.judge_suites import judge_suites, may_pass
from tasks.evaluate.verdict.verdict import Movement, Verdict, judge
from tasks.steps import log_progress, run_logger, show_table, side_by_side, step
from weighbridge.line import Line
from weighbridge.settings import load_settings


def suites_of(line: Line, kind: str) -> list[Suite]:
    """The line's suites of one kind, `general` or `regression`, in the line's order."""
    return [find_suite(use.name) for use in line.suites if use.name.startswith(f"{kind}/")]


def _digests(line: Line, kind: str) -> list[object]:
    return [suite.digest for suite in suites_of(line, kind)]


def weighing_conditions(line: Line, scorer: ServingScorer) -> list[object]:
    """All that a verdict depends on beside the models: the line, its suites' content, the held text, what scores."""
    suites = [*_digests(line, "general"), *_digests(line, "regression")]
    return [line.model_dump(), suites, text_digest(held_documents()), scorer.engine, scorer.lm_eval_name()]


@step(
    "forecast",
    key=lambda line, reference, scorer: [reference and reference.digest, *weighing_conditions(line, scorer)],
)
def forecast(line: Line, reference: Artifact | None, scorer: ServingScorer) -> list[Forecast]:
    """Say what the verdict may take, and warn of suites that can never decide their margin."""

    def scorer_of(suite: Suite) -> str:
        return scorer.lm_eval_name() if suite.kind == "general" else chat_scorer_name(scorer.engine)

    rows = list(foresee(line, reference.digest if reference else None, scorer_of, ScoreCache.of(load_settings())))
    for row in rows:
        (run_logger().warning if row.too_small else run_logger().info)(row.sentence)
    table = [
        {
            "suite": row.suite,
            "items": row.power.items,
            "margin": row.power.margin,
            "items for 9 in 10": row.power.items_sure,
            "minutes": None if row.seconds is None else round(row.seconds / 60, 1),
            "too small": "yes" if row.too_small else "",
        }
        for row in rows
    ]
    show_table(f"{line.name}-forecast", table, "What the verdict on each suite may take")
    return rows


def score(
    artifact: Artifact, line: Line, scorer: ServingScorer, against: list[SuiteScores] | None = None
) -> list[SuiteScores]:
    """Score an artifact on the line's general suites; what was scored before is taken from the book.

    Where several are weighed at once, each suite has a model of its own. An engine has one for all, and takes several
    questions at once by itself.

    Args:
        artifact: what is scored.
        line: whose suites.
        scorer: the engine that is to serve, through which it is scored where that can be.
        against: production's scores; a suite that is not shown to be no worse than them spares those after it.
    """
    names = [suite.name for suite in suites_of(line, "general")]
    alone = load_settings().weigh_at_once == 1 or scorer.prompt_log_probabilities
    groups = [names] if alone else [[name] for name in names]
    shared = {"artifact": artifact, "line": line, "scorer": scorer, "against": against}
    lists = side_by_side(score_suites, [{**shared, "suites": group} for group in groups])
    return [scores for group in lists for scores in group]


@step(
    "score-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, line, scorer, suites, against: [
        artifact.digest,
        [find_suite(name).digest for name in suites],
        scorer.lm_eval_name(),
        [[one.artifact_digest, line.suites, line.confidence] for one in against or []],
    ],
)
def score_suites(
    artifact: Artifact, line: Line, scorer: ServingScorer, suites: list[str], against: list[SuiteScores] | None
) -> list[SuiteScores]:
    """Score an artifact on some general suites, one after the other; see `score`."""

    def cannot_pass(scores: SuiteScores) -> bool:
        return bool(against) and not may_pass(line, [scores], against)

    return _scored(artifact, line, scorer, [find_suite(name) for name in suites], "score", None, cannot_pass)


@step(
    "noise-floor-{artifact.short}",
    key=lambda artifact, line, scorer: [
        artifact.digest,
        _digests(line, "general"),
        scorer.lm_eval_name(NOISE_BATCH_SIZE),
    ],
)
def noise_floor(artifact: Artifact, line: Line, scorer: ServingScorer) -> list[SuiteScores]:
    """Score production a second time, rounded otherwise: the flips between the two are nobody's loss."""
    return _scored(artifact, line, scorer, suites_of(line, "general"), "noise floor of", NOISE_BATCH_SIZE)


def _scored(
    artifact: Artifact,
    line: Line,
    scorer: ServingScorer,
    suites: list[Suite],
    what: str,
    batch_size: int | None,
    enough: Callable[[SuiteScores], bool] = lambda _: False,
) -> list[SuiteScores]:
    cache, told = ScoreCache.of(load_settings()), dict[str, Callable[[int, int], None]]()
    key = {"artifact_digest": artifact.digest, "scorer": scorer.lm_eval_name(batch_size)}
    known = [cache.find(suite_digest=suite.digest, **key) for suite in suites]
    if all(scores is not None for scores in known):
        # No engine is started for what the book has.
        return [scores for scores in known if scores is not None]

    def progress(suite: str, done: int, total: int) -> None:
        told.setdefault(suite, log_progress(f"{what} {artifact.scheme} on {suite}"))(done, total)

    with scorer.lm_eval_scorer(line, artifact, run_logger().info, batch_size) as lm_eval:
        return score_by_lm_eval(lm_eval, suites, cache, load_settings().logs_folder, progress=progress, enough=enough)


@step(
    "ask-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, line, scorer: [artifact.digest, _digests(line, "regression"), scorer.engine],
)
def ask(artifact: Artifact, line: Line, scorer: ServingScorer) -> list[SuiteScores]:
    """Ask the line's regression suites through the very engine and flags that will serve.

    Args:
        artifact: what is asked.
        line: whose suites.
        scorer: that engine.
    """
    suites = suites_of(line, "regression")
    if not suites:
        return []
    with scorer.start_engine(line, artifact, run_logger().info) as engine:
        return [
            score_by_chat(
                scorer.chat_scorer(line, artifact, engine),
                suite,
                api_key=None,
                cache=ScoreCache.of(load_settings()),
                concurrency=line.target.concurrency,
                progress=log_progress(f"ask {artifact.scheme} {suite.name}"),
            )
            for suite in suites
        ]


@step(
    "look-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, published, line: [
        artifact.digest,
        published.digest,
        line.bounds,
        line.confidence,
        text_digest(held_documents()),
    ],
)
def look(artifact: Artifact, published: Artifact, line: Line) -> DriftReport:
    """See whether quantizing left the same model, before hours are spent on weighing it.

    Args:
        artifact: the candidate.
        published: its own release, unquantized.
        line: whose bounds.
    """
    store = Store()
    report = quick_look(
        store.path(artifact),
        store.path(published),
        bounds=line.bounds,
        confidence=line.confidence,
        candidate_digest=artifact.digest,
        production_digest=published.digest,
        progress=log_progress(f"look at {artifact.scheme}"),
    )
    run_logger().info("%s %s on held text: %s", artifact.scheme, artifact.short, report.sentence)
    return report


@step(
    "compare-answers-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, reference, line, candidate, production: [
        artifact.digest,
        reference.commit,
        line.bounds,
        line.confidence,
        [[one.artifact_digest, one.suite_digest, one.scorer] for one in (*candidate, *production)],
    ],
)
def compare_answers(
    artifact: Artifact, reference: Artifact, line: Line, candidate: list[SuiteScores], production: list[SuiteScores]
) -> DriftReport:
    """See how far the answers moved: flips over all suites, and what the regression suites' texts show.

    Another release is meant to answer otherwise: flips and lengths are only reported against one.

    Args:
        artifact: the candidate.
        reference: what it is weighed against.
        line: whose bounds.
        candidate, production: the scores of the two.
    """
    bounds = line.bounds
    if (artifact.repo, artifact.commit) != (reference.repo, reference.commit):
        bounds = bounds.model_copy(update={"max_flips_share": None, "max_length_ratio": None})
    theirs = {one.suite: one for one in production}
    pairs = [(theirs[one.suite], one) for one in candidate if one.suite in theirs]
    flips = flip_signal(pairs, bounds, line.confidence)
    signals = [flips]
    spoken = [(before, after) for before, after in pairs if after.suite.startswith("regression/")]
    if spoken:
        was = [answer for before, _ in spoken for answer in seen_answers(before)]
        now = [answer for _, after in spoken for answer in seen_answers(after)]
        signals += answer_signals(was, now, bounds, line.confidence)
    report = draw(
        signals,
        candidate_digest=artifact.digest,
        production_digest=reference.digest,
        must_show=[flips.name],
    )
    run_logger().info("%s %s, answers: %s", artifact.scheme, artifact.short, report.sentence)
    return report


@step(
    "verdict-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, line, candidate, production, production_digest, against, drift, again, alone: [
        artifact.digest,
        production_digest,
        against,
        [use.model_dump() for use in line.suites],
        line.confidence,
        [[one.suite_digest, one.scorer] for one in candidate],
        [[name, one] for name, one in drift.items()],
        [[one.suite_digest, one.scorer] for one in again],
        sorted(alone),
    ],
)
def draw_verdict(
    artifact: Artifact,
    line: Line,
    candidate: list[SuiteScores],
    production: list[SuiteScores] | None,
    production_digest: str | None,
    against: str,
    drift: dict[str, DriftReport],
    again: list[SuiteScores],
    alone: frozenset[str],
) -> Verdict:
    """Draw all suites together, and what moved beside accuracy."""
    suites = judge_suites(line, candidate, production, again, alone)
    moved = tuple(Movement(name=name, outcome=one.outcome, sentence=one.sentence) for name, one in drift.items())
    verdict = judge(artifact.digest, production_digest, suites, [use.name for use in line.suites], against, moved)
    for one in suites:
        run_logger().info("%s: %s: %s", one.suite, one.outcome, one.reason)
    run_logger().info("%s %s: %s", artifact.scheme, artifact.short, verdict.sentence)
    return verdict
