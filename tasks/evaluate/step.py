"""The evaluate room's steps for flows: forecast, drift check and weighing.

`weigh` runs further steps: those of `score_steps` and `verdict_steps`.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.installation import Installation
from registry.store import Artifact
from tasks.evaluate.drift import DriftReport, check_drift, held_documents, text_digest
from tasks.evaluate.drift.distributions import measurement_name
from tasks.evaluate.forecast import Forecast
from tasks.evaluate.forecast import forecast as forecast_suites
from tasks.evaluate.score_steps import noise_floor, score_prompts, score_tasks
from tasks.evaluate.scoring.scores import ScoreCache, SuiteScores
from tasks.evaluate.scoring.serving_scorer import ServingScorer
from tasks.evaluate.suites.suite import Suite
from tasks.evaluate.verdict import judge_suites
from tasks.evaluate.verdict.verdict import Verdict
from tasks.evaluate.verdict_steps import compare_answers, draw_verdict
from tasks.evaluate.weigh import Weighed, suite_digests, suites_of
from tasks.evaluate.weigh import weigh as weigh_candidate
from tasks.steps import log_progress, run_logger, show_table, side_by_side, step
from weighbridge.line import Line


def weighing_conditions(line: Line, scorer: ServingScorer) -> list[object]:
    """Everything beside the models that a verdict depends on: line, suites, held text, measurement, scorers."""
    return [
        line.model_dump(),
        suite_digests(line),
        text_digest(held_documents()),
        measurement_name(),
        scorer.chat_name(),
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
        return scorer.lm_eval_name() if suite.kind == "general" else scorer.chat_name()

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
        measurement_name(),
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
    with installation.store.reading(artifact, published) as (candidate_folder, published_folder):
        report = check_drift(
            candidate_folder,
            published_folder,
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
        scorer: scores through the engine that will serve.
    """
    steps = _WeighingSteps(installation, line, scorer)
    return weigh_candidate(line, artifact, drift, production, weights, steps)


@dataclass(frozen=True, slots=True)
class _WeighingSteps:
    """The steps that `weigh` runs, for one line."""

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
        lists = side_by_side(self.installation.settings, score_tasks, [{**shared, "suites": group} for group in groups])
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
