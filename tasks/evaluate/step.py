"""The evaluate room's steps: forecast, drift check, scoring, verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry.installation import Installation
from registry.store import Artifact
from tasks.evaluate.drift import DriftReport, check_drift, held_documents, text_digest
from tasks.evaluate.drift.compare_answers import compare_answers as measure_answers
from tasks.evaluate.forecast import Forecast
from tasks.evaluate.forecast import forecast as forecast_suites
from tasks.evaluate.scoring.chat import chat_scorer_name, score_by_chat
from tasks.evaluate.scoring.lm_eval import NOISE_BATCH_SIZE, score_by_lm_eval
from tasks.evaluate.scoring.scores import ScoreCache, SuiteScores
from tasks.evaluate.scoring.serving_scorer import ServingScorer
from tasks.evaluate.suites.suite import Suite, find_suite
from tasks.evaluate.verdict import judge_suites
from tasks.evaluate.verdict.verdict import Verdict
from tasks.evaluate.weigh import Weighed, suite_digests, suites_of
from tasks.evaluate.weigh import draw_verdict as draw_together
from tasks.evaluate.weigh import weigh as weigh_candidate
from tasks.steps import log_progress, run_logger, show_table, side_by_side, step
from weighbridge.line import Line


def weighing_conditions(line: Line, scorer: ServingScorer) -> list[object]:
    """Everything beside the models that a verdict depends on: line, suites, held text, scorers."""
    return [
        line.model_dump(),
        suite_digests(line),
        text_digest(held_documents()),
        scorer.engine,
        scorer.lm_eval_name(),
    ]


@step(
    "forecast",
    key=lambda line, reference, scorer: [reference and reference.digest, *weighing_conditions(line, scorer)],
)
def forecast(
    installation: Installation, line: Line, reference: Artifact | None, scorer: ServingScorer
) -> list[Forecast]:
    """Forecast items and minutes of each suite, and warn of suites that are too small for their margin."""

    def scorer_of(suite: Suite) -> str:
        return scorer.lm_eval_name() if suite.kind == "general" else chat_scorer_name(scorer.engine)

    cache = ScoreCache.of(installation.settings)
    rows = list(forecast_suites(line, reference.digest if reference else None, scorer_of, cache))
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
    show_table(f"{line.name}-forecast", table, "Items and minutes that each suite may take")
    return rows


@step(
    "drift-check-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, published, line: [
        artifact.digest,
        published.digest,
        line.bounds,
        line.confidence,
        text_digest(held_documents()),
    ],
)
def drift_check(installation: Installation, artifact: Artifact, published: Artifact, line: Line) -> DriftReport:
    """Check how far quantizing moved a model from its own release, before hours of scoring.

    Args:
        installation: has the artifacts.
        artifact: the candidate.
        published: its own release, unquantized.
        line: its bounds and confidence.
    """
    report = check_drift(
        installation.store.path(artifact),
        installation.store.path(published),
        bounds=line.bounds,
        confidence=line.confidence,
        candidate_digest=artifact.digest,
        production_digest=published.digest,
        progress=log_progress(f"drift check of {artifact.scheme}"),
        home=installation.settings.home,
    )
    run_logger().info("%s %s on held text: %s", artifact.scheme, artifact.short, report.sentence)
    return report


@step(
    "weigh-{artifact.scheme}-{artifact.short}",
    key=lambda line, artifact, production, weights, scorer: [
        artifact.digest,
        production and production.digest,
        weights.digest,
        *weighing_conditions(line, scorer),
    ],
)
def weigh(
    installation: Installation,
    line: Line,
    artifact: Artifact,
    drift: DriftReport | None,
    production: Artifact | None,
    weights: Artifact,
    scorer: ServingScorer,
) -> Weighed:
    """Weigh a candidate against production; before there is any, against the release as published.

    Args:
        installation: has the artifacts and earlier scores.
        line: its suites, margins and bounds.
        artifact: the candidate.
        drift: its drift check; None for the release as published.
        production: the artifact that serves; None before there is any.
        weights: the release as published.
        scorer: scores through the engine that is to serve.
    """
    steps = _WeighingSteps(installation, line, scorer)
    return weigh_candidate(line, artifact, drift, production, weights, steps)


@dataclass(frozen=True, slots=True)
class _WeighingSteps:
    """The steps below, for one line's `weigh`."""

    installation: Installation
    line: Line
    scorer: ServingScorer

    @property
    def scored_through(self) -> str:
        return self.scorer.sentence

    def can_serve(self, artifact: Artifact) -> bool:
        return self.scorer.can_serve(artifact)

    def may_pass(self, candidate: list[SuiteScores], production: list[SuiteScores]) -> bool:
        return judge_suites.may_pass(self.line, ScoreCache.of(self.installation.settings), candidate, production)

    def score_tasks(self, artifact: Artifact, production: list[SuiteScores] | None = None) -> list[SuiteScores]:
        names = [suite.name for suite in suites_of(self.line, "general")]
        # Suites scored in parallel each load the model; an engine loads it once and takes several questions at once.
        one_by_one = self.installation.settings.weigh_at_once == 1 or self.scorer.prompt_log_probabilities
        groups = [names] if one_by_one else [[name] for name in names]
        shared = {
            "installation": self.installation,
            "artifact": artifact,
            "line": self.line,
            "scorer": self.scorer,
            "production": production,
        }
        lists = side_by_side(score_tasks, [{**shared, "suites": group} for group in groups])
        return [scores for group in lists for scores in group]

    def score_prompts(self, artifact: Artifact) -> list[SuiteScores]:
        return score_prompts(self.installation, artifact, self.line, self.scorer)

    def noise_floor(self, production: Artifact) -> list[SuiteScores]:
        return noise_floor(self.installation, production, self.line, self.scorer)

    def compare_answers(
        self, artifact: Artifact, reference: Artifact, candidate: list[SuiteScores], production: list[SuiteScores]
    ) -> DriftReport:
        return compare_answers(artifact, reference, self.line, candidate, production)

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
        return draw_verdict(
            self.installation,
            artifact,
            self.line,
            candidate,
            production,
            production_digest,
            against,
            drift,
            production_rescored,
            unpaired_suites,
        )


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
        scorer: scores through the engine that is to serve, where the engine can.
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
)
def noise_floor(installation: Installation, artifact: Artifact, line: Line, scorer: ServingScorer) -> list[SuiteScores]:
    """Score production a second time at another batch size: flips between the two are rounding, not loss."""
    suites = suites_of(line, "general")
    return _score(installation, artifact, line, scorer, suites, "noise floor of", batch_size=NOISE_BATCH_SIZE)


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


@step(
    "score-prompts-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, line, scorer: [artifact.digest, suite_digests(line, ["regression"]), scorer.engine],
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
                api_key=None,
                cache=ScoreCache.of(installation.settings),
                concurrency=line.target.concurrency,
                progress=log_progress(f"prompt {artifact.scheme} with {suite.name}"),
            )
            for suite in suites
        ]


@step(
    "compare-answers-{artifact.scheme}-{artifact.short}",
    key=lambda artifact, reference, line, candidate, production: [
        artifact.digest,
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
