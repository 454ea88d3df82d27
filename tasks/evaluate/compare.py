"""Weigh two models against each other, with nothing else set up: score what is missing, then judge each suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.compare_inputs import ComparedModel
from tasks.evaluate.scoring.chat import ChatScorer, score_by_chat
from tasks.evaluate.scoring.endpoint import Endpoint, lacks_log_probabilities
from tasks.evaluate.scoring.lm_eval import NOISE_BATCH_SIZE, LmEvalScorer, score_by_lm_eval
from tasks.evaluate.scoring.partial_scores import read_partial_scores
from tasks.evaluate.scoring.scores import Conditions, ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import Suite
from tasks.evaluate.verdict.comparable import disagreements, invalid, weigh_suite
from tasks.evaluate.verdict.early_stopping import Look, fair_order, judge_as_seen, look, looking_order
from tasks.evaluate.verdict.verdict import SuiteVerdict, Verdict, judge
from weighbridge.errors import EndpointRefused, ScoringFailed, SuiteNeedsMore


class Options(BaseModel):
    """How the two are compared."""

    model_config = ConfigDict(frozen=True)

    margin: float = 0.02
    confidence: float = 0.95
    noise_floor: bool = False
    """Whether production is scored twice."""
    all_items: bool = False
    """Whether the candidate is scored to a suite's end although the question is settled."""
    fresh: bool = False
    """Whether earlier scores are dropped."""
    may_differ: frozenset[str] = frozenset()
    """Fields of `Conditions` that may differ although scores then mean something else."""
    concurrency: int = 8
    retry_seconds: float | None = None
    tokenizer: Path | None = None
    """For general suites of an endpoint that has no tokenizer to ask."""


class Comparison(BaseModel):
    """The verdict and what it rests on."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    candidate: ComparedModel
    production: ComparedModel
    candidate_scores: tuple[SuiteScores, ...]
    production_scores: tuple[SuiteScores, ...]
    options: Options


class ComparisonListener(Protocol):
    """Who is told how it goes on."""

    def progress(self, who: str, suite: str, done: int, total: int) -> None:
        """So many items of a suite are scored."""

    def running(self, suite: str, seen: Look, margin: float) -> None:
        """What a suite's items show so far."""

    def say(self, text: str) -> None:
        """Something that a reader should know now."""


class _Compared:
    """One comparison as it goes on."""

    def __init__(
        self,
        candidate: ComparedModel,
        production: ComparedModel,
        suites: Sequence[Suite],
        options: Options,
        watch: ComparisonListener,
    ):
        self.candidate, self.production, self.options, self.watch = candidate, production, options, watch
        self.suites, self.cache = suites, ScoreCache()
        self.ours: dict[str, SuiteScores] = {}
        self.theirs: dict[str, SuiteScores] = {}
        self.again: dict[str, SuiteScores] = {}
        self.failures: dict[str, str] = {}

    def key(self, side: ComparedModel, suite: Suite, again: bool = False) -> dict[str, str]:
        """What the book finds a side's scores on a suite by."""
        if suite.kind == "general":
            return self._general(side, again).key(suite)
        chat_scorer = side.chat_scorer(again)
        return {"artifact_digest": side.digest, "suite_digest": suite.digest, "scorer": chat_scorer.name}

    def require_all(self) -> None:
        """See that every suite can be scored on both, before the first one takes its time.

        Raises:
            SuiteNeedsMore: one cannot.
        """
        for suite in self.suites:
            for side in self._sides:
                if suite.kind == "regression" and side.endpoint is None:
                    raise SuiteNeedsMore(
                        f"{suite.name} asks prompts through the engine that serves, and {side.label} is a folder.",
                        f"Serve it, as with `transformers serve {side.folder}` or `vllm serve {side.folder}`, and name "
                        "its address instead.",
                    )
                if suite.kind == "general" and side.endpoint is not None:
                    self._require_log_probabilities(side, side.endpoint, suite)

    def _require_log_probabilities(self, side: ComparedModel, endpoint: Endpoint, suite: Suite) -> None:
        if not self.options.fresh and self.cache.find(**self.key(side, suite)) is not None:
            return
        if lacking := lacks_log_probabilities(endpoint.base, endpoint.model, side.api_key):
            raise SuiteNeedsMore(
                f"{suite.name} needs log-probabilities of prompts, and {side.label} gives none: {lacking}.",
                "Name the model's folder instead, serve it by an engine that echoes them (vLLM), or compare on "
                "regression suites.",
            )

    def score_all(self) -> None:
        """Score what is missing; a suite that fails, or must not be compared, is noted, and the others go on."""
        if self.options.fresh:
            for suite in self.suites:
                for side, again in ((self.candidate, False), (self.production, False), (self.production, True)):
                    self.cache.forget(**self.key(side, suite, again))
        for suite in self.suites:
            ours, theirs = (self._conditions(side, suite) for side in self._sides)
            if reasons := disagreements(ours, theirs, self.options.may_differ):
                self.failures[suite.name] = f"{'; '.join(reasons)}."
        possible = [suite for suite in self.suites if suite.name not in self.failures]
        general = [suite for suite in possible if suite.kind == "general"]
        self._score_general("production", general, self.theirs)
        if self.options.noise_floor:
            self._score_general("production again", general, self.again)
        self._score_general("candidate", [suite for suite in general if suite.name in self.theirs], self.ours)
        for suite in possible:
            if suite.kind == "regression":
                self._ask(suite)

    def verdict(self, suite: Suite) -> SuiteVerdict:
        """One suite's verdict."""
        margin, confidence = self.options.margin, self.options.confidence
        ours, theirs = self.ours.get(suite.name), self.theirs.get(suite.name)
        if ours is None or theirs is None:
            reason = self.failures.get(suite.name, "it was not scored, for an earlier suite failed.")
            return invalid(
                ours or self._so_far(self.candidate, suite),
                theirs or self._so_far(self.production, suite),
                reason,
                margin=margin,
                confidence=confidence,
            )

        def as_seen(candidate: SuiteScores, production: SuiteScores | None) -> SuiteVerdict:
            assert production is not None
            return judge_as_seen(candidate, production, margin=margin, confidence=confidence)

        return weigh_suite(
            ours,
            theirs,
            margin=margin,
            confidence=confidence,
            may_differ=self.options.may_differ,
            earlier=self.cache.others(**self.key(self.production, suite)),
            again=self.again.get(suite.name),
            judge=None if self.options.all_items else as_seen,
        )

    def _score_general(self, who: str, suites: list[Suite], into: dict[str, SuiteScores]) -> None:
        side = self.candidate if who == "candidate" else self.production
        may_stop = who == "candidate" and not self.options.all_items
        if not suites:
            return
        try:
            found = score_by_lm_eval(
                self._general(side, who == "production again"),
                suites,
                self.cache,
                progress=lambda suite, done, total: self.watch.progress(who, suite, done, total),
                order=self._order if may_stop else None,
                stop=(lambda suite, seen: self._settled(suite, seen)) if who == "candidate" else None,
            )
        except ScoringFailed as error:
            key = {suite.name: self.key(side, suite, who == "production again") for suite in suites}
            kept = {suite.name: self.cache.find(**key[suite.name]) for suite in suites}
            found = [scores for scores in kept.values() if scores is not None]
            self.failures |= {name: f"{who}: {error.what}" for name, scores in kept.items() if scores is None}
        into |= {scores.suite: scores for scores in found}

    def _ask(self, suite: Suite) -> None:
        who = "production"
        try:
            self.theirs[suite.name] = self._asked(who, suite, self.production.chat_scorer())
            if self.options.noise_floor:
                self.again[suite.name] = self._asked("production again", suite, self.production.chat_scorer(again=True))
            who = "candidate"
            self.ours[suite.name] = self._asked(who, suite, self.candidate.chat_scorer())
        except ScoringFailed as error:
            self.failures[suite.name] = f"{who}: {error.what} [{error.where}] {self._told_so_far(suite)}"

    def _asked(self, who: str, suite: Suite, chat_scorer: ChatScorer) -> SuiteScores:
        candidate = who == "candidate"
        theirs = self.theirs.get(suite.name)
        return score_by_chat(
            chat_scorer,
            suite,
            api_key=(self.candidate if candidate else self.production).api_key,
            cache=self.cache,
            concurrency=self.options.concurrency,
            retry_seconds=self.options.retry_seconds,
            progress=lambda done, total: self.watch.progress(who, suite.name, done, total),
            order=fair_order(theirs) if candidate and theirs else (),
            first=[item.id for item in theirs.items if item.must_pass] if candidate and theirs else (),
            stop=(lambda seen: self._settled(suite, seen)) if candidate else None,
        )

    def _settled(self, suite: Suite, seen: list[ItemScore]) -> bool:
        now = look(
            self.theirs[suite.name],
            seen,
            margin=self.options.margin,
            confidence=self.options.confidence,
            suites=len(self.suites),
        )
        self.watch.running(suite.name, now, self.options.margin)
        return now.settled and not self.options.all_items

    def _order(self, suite: Suite, scored: Mapping[str, ItemScore]) -> tuple[str, ...]:
        production = self.theirs[suite.name]
        return looking_order(production, scored, margin=self.options.margin, confidence=self.options.confidence)

    def _general(self, side: ComparedModel, again: bool) -> LmEvalScorer:
        return side.general(self.options.tokenizer, NOISE_BATCH_SIZE if again else None)

    def _conditions(self, side: ComparedModel, suite: Suite) -> Conditions:
        return (
            side.general(self.options.tokenizer).conditions
            if suite.kind == "general"
            else side.chat_scorer().conditions
        )

    def _so_far(self, side: ComparedModel, suite: Suite) -> SuiteScores:
        """What a scoring that failed has: for the report, not for a verdict."""
        key = self.key(side, suite)
        items = tuple(read_partial_scores(self.cache.partial_scores_path(**key)).values())
        return SuiteScores(suite=suite.name, **key, items=items, seconds=0.0, suite_items=suite.items)

    def _told_so_far(self, suite: Suite) -> str:
        counts = [
            len(read_partial_scores(self.cache.partial_scores_path(**self.key(side, suite)))) for side in self._sides
        ]
        kept = " and ".join(f"{count} of {suite.items} by {who}" for count, who in zip(counts, self._names) if count)
        return f"Answered and kept: {kept}; run the same command again to go on from there." if kept else ""

    @property
    def _sides(self) -> tuple[ComparedModel, ComparedModel]:
        return self.candidate, self.production

    _names = ("the candidate", "production")


def compare(
    candidate: ComparedModel,
    production: ComparedModel,
    suites: Sequence[Suite],
    options: Options,
    watch: ComparisonListener,
) -> Comparison:
    """Compare two models on suites; what was scored before is taken from the book.

    Args:
        candidate, production: the two.
        suites: at least one, each of another name.
        options: margin, confidence and how scoring goes.
        watch: told of the progress.

    Raises:
        SuiteNeedsMore: a suite cannot be scored on one of the two at all.
        EndpointRefused: one that does not answer is to be scored afresh.
    """
    for who, side in (("candidate", candidate), ("production", production)):
        if side.endpoint and side.endpoint.remembered:
            if options.fresh:
                raise EndpointRefused(
                    f"{side.label} does not answer, so nothing can be scored afresh.", "Start it, or leave out --fresh."
                )
            watch.say(f"{who}: {side.label} does not answer; it is taken for what it was the last time.")
    going = _Compared(candidate, production, suites, options, watch)
    going.require_all()
    going.score_all()
    verdict = judge(
        candidate.digest,
        production.digest,
        [going.verdict(suite) for suite in suites],
        [suite.name for suite in suites],
        production.label,
    )
    return Comparison(
        verdict=verdict,
        candidate=candidate,
        production=production,
        candidate_scores=tuple(going.ours.values()),
        production_scores=tuple(going.theirs.values()),
        options=options,
    )
