"""Compare two models without a line or a registry: score what is missing, then judge each suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from tasks.evaluate.compare_inputs import ComparedModel
from tasks.evaluate.comparison import Comparison, ComparisonListener, Options
from tasks.evaluate.scoring.chat import score_by_chat
from tasks.evaluate.scoring.endpoint import Endpoint, lacks_log_probabilities
from tasks.evaluate.scoring.lm_eval import NOISE_BATCH_SIZE, LmEvalScorer, score_by_lm_eval
from tasks.evaluate.scoring.partial_scores import read_partial_scores
from tasks.evaluate.scoring.scores import Conditions, ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import Suite
from tasks.evaluate.verdict.comparable import disagreements
from tasks.evaluate.verdict.early_stopping import (
    interim_estimate,
    judge_sequentially,
    scoring_order,
    shuffled_order,
)
from tasks.evaluate.verdict.judge_suites import weigh_suite
from tasks.evaluate.verdict.verdict import SuiteVerdict, invalid_verdict, judge
from weighbridge.errors import EndpointRefused, ScoringFailed, SuiteNeedsMore
from weighbridge.settings import Settings

Role = Literal["candidate", "production", "production rescored"]
"""Whose scores; production is scored a second time for the noise floor."""


class _ComparisonRun:
    """State of a comparison in progress."""

    def __init__(
        self,
        candidate: ComparedModel,
        production: ComparedModel,
        suites: Sequence[Suite],
        options: Options,
        listener: ComparisonListener,
        settings: Settings,
    ) -> None:
        self.candidate, self.production = candidate, production
        self.suites, self.options, self.listener = suites, options, listener
        self.cache, self.logs_folder = ScoreCache.of(settings), settings.logs_folder
        self.scores: dict[Role, dict[str, SuiteScores]] = {
            "candidate": {},
            "production": {},
            "production rescored": {},
        }
        """Scores by suite."""
        self.failures: dict[str, str] = {}
        """Reasons why suites have no verdict, by suite."""

    def key(self, role: Role, suite: Suite) -> dict[str, str]:
        """Key of the scores on a suite in the score cache."""
        if suite.kind == "general":
            return self._lm_eval_scorer(role).key(suite)
        model = self._model(role)
        scorer = model.chat_scorer(rescored=role == "production rescored")
        return {"artifact_digest": model.digest, "suite_digest": suite.digest, "scorer": scorer.name}

    def check_requirements(self) -> None:
        """Check that every suite can be scored on both models, before scoring takes time.

        Raises:
            SuiteNeedsMore: one cannot.
        """
        for suite in self.suites:
            for role in self._roles:
                model = self._model(role)
                if suite.kind == "regression" and model.endpoint is None:
                    raise SuiteNeedsMore(
                        f"{suite.name} sends prompts to the engine that serves, and {model.label} is a folder.",
                        f"Serve it, as with `transformers serve {model.folder}` or `vllm serve {model.folder}`, and "
                        "name its address instead.",
                    )
                if suite.kind == "general" and model.endpoint is not None:
                    self._require_log_probabilities(role, model.endpoint, suite)

    def _require_log_probabilities(self, role: Role, endpoint: Endpoint, suite: Suite) -> None:
        if not self.options.fresh and self.cache.find(**self.key(role, suite)) is not None:
            return
        model = self._model(role)
        if missing := lacks_log_probabilities(endpoint.base, endpoint.model, model.api_key):
            raise SuiteNeedsMore(
                f"{suite.name} needs prompt log-probabilities, and {model.label} returns none: {missing}.",
                "Name the model's folder instead, serve it by an engine that echoes them (vLLM), or compare on "
                "regression suites.",
            )

    def score_all(self) -> None:
        """Score what is missing; a suite that fails or is not comparable is noted, and the others continue."""
        if self.options.fresh:
            for suite in self.suites:
                for role in self.scores:
                    self.cache.forget(**self.key(role, suite))
        for suite in self.suites:
            candidate, production = (self._conditions(role, suite) for role in self._roles)
            if reasons := disagreements(candidate, production, self.options.may_differ):
                self.failures[suite.name] = f"{'; '.join(reasons)}."
        comparable = [suite for suite in self.suites if suite.name not in self.failures]
        general = [suite for suite in comparable if suite.kind == "general"]
        self._score_general("production", general)
        if self.options.noise_floor:
            self._score_general("production rescored", general)
        self._score_general("candidate", [suite for suite in general if suite.name in self.scores["production"]])
        for suite in comparable:
            if suite.kind == "regression":
                self._score_regression(suite)

    def verdict(self, suite: Suite) -> SuiteVerdict:
        """Judge one suite."""
        margin, confidence = self.options.margin, self.options.confidence
        candidate, production = (self.scores[role].get(suite.name) for role in self._roles)
        if candidate is None or production is None:
            reason = self.failures.get(suite.name, "it was not scored, because an earlier suite failed.")
            return invalid_verdict(
                candidate or self._partial("candidate", suite),
                production or self._partial("production", suite),
                reason,
                margin=margin,
                confidence=confidence,
            )

        def judge_early(candidate: SuiteScores, production: SuiteScores | None) -> SuiteVerdict:
            assert production is not None
            return judge_sequentially(candidate, production, margin=margin, confidence=confidence)

        return weigh_suite(
            candidate,
            production,
            margin=margin,
            confidence=confidence,
            may_differ=self.options.may_differ,
            earlier=self.cache.by_other_scorers(**self.key("production", suite)),
            production_rescored=self.scores["production rescored"].get(suite.name),
            judge=None if self.options.all_items else judge_early,
        )

    def _score_general(self, role: Role, suites: list[Suite]) -> None:
        if not suites:
            return
        is_candidate = role == "candidate"
        try:
            scored = score_by_lm_eval(
                self._lm_eval_scorer(role),
                suites,
                self.cache,
                self.logs_folder,
                progress=lambda suite, done, total: self.listener.progress(role, suite, done, total),
                order=self._order if is_candidate and not self.options.all_items else None,
                stop=self._is_decided if is_candidate else None,
            )
        except ScoringFailed as error:
            cached = {suite.name: self.cache.find(**self.key(role, suite)) for suite in suites}
            scored = [scores for scores in cached.values() if scores is not None]
            self.failures |= {name: f"{role}: {error.what}" for name, scores in cached.items() if scores is None}
        self.scores[role] |= {scores.suite: scores for scores in scored}

    def _score_regression(self, suite: Suite) -> None:
        roles: list[Role] = ["production", "candidate"]
        if self.options.noise_floor:
            roles.insert(1, "production rescored")
        for role in roles:
            try:
                self.scores[role][suite.name] = self._score_by_chat(role, suite)
            except ScoringFailed as error:
                self.failures[suite.name] = f"{role}: {error.what} [{error.where}] {self._partial_progress(suite)}"
                return

    def _score_by_chat(self, role: Role, suite: Suite) -> SuiteScores:
        model = self._model(role)
        production = self.scores["production"][suite.name] if role == "candidate" else None
        return score_by_chat(
            model.chat_scorer(rescored=role == "production rescored"),
            suite,
            api_key=model.api_key,
            cache=self.cache,
            concurrency=self.options.concurrency,
            retry_seconds=self.options.retry_seconds,
            progress=lambda done, total: self.listener.progress(role, suite.name, done, total),
            order=shuffled_order(production) if production else (),
            first=[item.id for item in production.items if item.must_pass] if production else (),
            stop=(lambda items: self._is_decided(suite, items)) if production else None,
        )

    def _is_decided(self, suite: Suite, items: list[ItemScore]) -> bool:
        interim = interim_estimate(
            self.scores["production"][suite.name],
            items,
            margin=self.options.margin,
            confidence=self.options.confidence,
            suites=len(self.suites),
        )
        self.listener.running(suite.name, interim, self.options.margin)
        return interim.settled and not self.options.all_items

    def _order(self, suite: Suite, scored: Mapping[str, ItemScore]) -> tuple[str, ...]:
        production = self.scores["production"][suite.name]
        return scoring_order(production, scored, margin=self.options.margin, confidence=self.options.confidence)

    def _model(self, role: Role) -> ComparedModel:
        return self.candidate if role == "candidate" else self.production

    def _lm_eval_scorer(self, role: Role) -> LmEvalScorer:
        batch_size = NOISE_BATCH_SIZE if role == "production rescored" else None
        return self._model(role).lm_eval_scorer(self.options.tokenizer, batch_size)

    def _conditions(self, role: Role, suite: Suite) -> Conditions:
        if suite.kind == "general":
            return self._lm_eval_scorer(role).conditions
        return self._model(role).chat_scorer().conditions

    def _partial(self, role: Role, suite: Suite) -> SuiteScores:
        """The scores of an unfinished suite: for the report, not for a verdict."""
        key = self.key(role, suite)
        items = tuple(read_partial_scores(self.cache.partial_scores_path(**key)).values())
        return SuiteScores(suite=suite.name, **key, items=items, seconds=0.0, suite_items=suite.items)

    def _partial_progress(self, suite: Suite) -> str:
        counts = {
            label: len(read_partial_scores(self.cache.partial_scores_path(**self.key(role, suite))))
            for role, label in zip(self._roles, ("the candidate", "production"))
        }
        counted = " and ".join(f"{count} of {suite.items} by {label}" for label, count in counts.items() if count)
        return f"Answered and kept: {counted}; run the same command again to continue from there." if counted else ""

    _roles: tuple[Role, Role] = ("candidate", "production")


def compare(
    candidate: ComparedModel,
    production: ComparedModel,
    suites: Sequence[Suite],
    options: Options,
    listener: ComparisonListener,
    settings: Settings,
) -> Comparison:
    """Compare two models on suites; earlier scores come from the cache.

    Args:
        candidate: the model in question.
        production: the model that it is compared with.
        suites: at least one; their names must differ.
        options: margin, confidence and settings of scoring.
        listener: receives the progress.
        settings: of the installation, whose score cache and logs are used.

    Raises:
        SuiteNeedsMore: a suite cannot be scored on one of the models.
        EndpointRefused: an endpoint does not answer, and `options.fresh` requires new scores.
    """
    for role, model in (("candidate", candidate), ("production", production)):
        if model.endpoint and model.endpoint.remembered:
            if options.fresh:
                raise EndpointRefused(
                    f"{model.label} does not answer, so nothing can be scored afresh.",
                    "Start it, or leave out --fresh.",
                )
            listener.say(f"{role}: {model.label} does not answer; its last known description is used.")
    run = _ComparisonRun(candidate, production, suites, options, listener, settings)
    run.check_requirements()
    run.score_all()
    verdict = judge(
        candidate.digest,
        production.digest,
        [run.verdict(suite) for suite in suites],
        [suite.name for suite in suites],
        production.label,
    )
    return Comparison(
        verdict=verdict,
        candidate=candidate,
        production=production,
        candidate_scores=tuple(run.scores["candidate"].values()),
        production_scores=tuple(run.scores["production"].values()),
        options=options,
    )
