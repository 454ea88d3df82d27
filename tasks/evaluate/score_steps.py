"""The steps that score an artifact: general suites, the noise floor, and regression suites."""

from __future__ import annotations

from collections.abc import Callable

from registry.installation import Installation
from registry.store import Artifact
from tasks.evaluate.scoring.chat import score_by_chat
from tasks.evaluate.scoring.lm_eval import NOISE_BATCH_SIZE, score_by_lm_eval
from tasks.evaluate.scoring.scores import ScoreCache, SuiteScores
from tasks.evaluate.scoring.serving_scorer import ServingScorer
from tasks.evaluate.suites.suite import Suite, find_suite
from tasks.evaluate.verdict import judge_suites
from tasks.evaluate.weigh import suite_digests, suites_of
from tasks.steps import log_progress, run_logger, step
from weighbridge.line import Line


@step(
    "score-tasks-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, line, scorer, suites, production: [
        artifact.digest,
        [find_suite(name).digest for name in suites],
        scorer.lm_eval_name(),
        [[scores.artifact_digest, line.suites, line.confidence] for scores in production or []],
    ],
)
def score_tasks(
    installation: Installation,
    artifact: Artifact,
    line: Line,
    scorer: ServingScorer,
    suites: list[str],
    production: list[SuiteScores] | None,
) -> list[SuiteScores]:
    """Score an artifact on general suites, one after the other, with earlier scores from the cache.

    Args:
        installation: has the artifact and earlier scores.
        artifact: the model to score.
        line: its margins.
        scorer: scores through the engine that will serve, if it returns prompt log-probabilities.
        suites: names of general suites.
        production: production's scores; the first suite that is not shown to be no worse ends the scoring.
    """
    cache = ScoreCache.of(installation.settings)

    def cannot_pass(scores: SuiteScores) -> bool:
        return bool(production) and not judge_suites.may_pass(line, cache, [scores], production)

    found = [find_suite(name) for name in suites]
    return _score(installation, artifact, line, scorer, found, "score", enough=cannot_pass)


@step(
    "noise-floor-{artifact.short}",
    key=lambda artifact, line, scorer: [
        artifact.digest,
        suite_digests(line, ["general"]),
        scorer.lm_eval_name(NOISE_BATCH_SIZE),
    ],
    version=2,
)
def noise_floor(installation: Installation, artifact: Artifact, line: Line, scorer: ServingScorer) -> list[SuiteScores]:
    """Score production a second time at another batch size: flips between the two are rounding, not loss."""
    suites = suites_of(line, "general")
    return _score(installation, artifact, line, scorer, suites, "noise floor of", batch_size=NOISE_BATCH_SIZE)


@step(
    "score-prompts-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, line, scorer: [artifact.digest, suite_digests(line, ["regression"]), scorer.chat_name()],
)
def score_prompts(
    installation: Installation, artifact: Artifact, line: Line, scorer: ServingScorer
) -> list[SuiteScores]:
    """Score an artifact on the line's regression suites through the engine and flags that will serve.

    Args:
        installation: has earlier scores.
        artifact: the model to score.
        line: its suites and concurrency.
        scorer: starts that engine.
    """
    suites = suites_of(line, "regression")
    if not suites:
        return []
    with scorer.start_engine(line, artifact, run_logger().info) as engine:
        return [
            score_by_chat(
                scorer.chat_scorer(line, artifact, engine),
                suite,
                api_key=engine.key or None,
                cache=ScoreCache.of(installation.settings),
                concurrency=line.target.concurrency,
                progress=log_progress(f"prompt {artifact.scheme} with {suite.name}"),
            )
            for suite in suites
        ]


def _score(
    installation: Installation,
    artifact: Artifact,
    line: Line,
    scorer: ServingScorer,
    suites: list[Suite],
    activity: str,
    batch_size: int | None = None,
    enough: Callable[[SuiteScores], bool] = lambda _: False,
) -> list[SuiteScores]:
    cache, bars = ScoreCache.of(installation.settings), dict[str, Callable[[int, int], None]]()
    key = {"artifact_digest": artifact.digest, "scorer": scorer.lm_eval_name(batch_size)}
    known = [cache.find(suite_digest=suite.digest, **key) for suite in suites]
    if all(scores is not None for scores in known):
        # No engine is started where every score is in the cache.
        return [scores for scores in known if scores is not None]

    def progress(suite: str, done: int, total: int) -> None:
        bars.setdefault(suite, log_progress(f"{activity} {artifact.scheme} on {suite}"))(done, total)

    with scorer.lm_eval_scorer(line, artifact, run_logger().info, batch_size) as lm_eval:
        logs = installation.settings.logs_folder
        return score_by_lm_eval(lm_eval, suites, cache, logs, progress=progress, enough=enough)
