"""Chat scoring: send a regression suite's prompts to an OpenAI-compatible endpoint and grade the answers.

A missing answer is never counted as a wrong one: requests are retried within a `RetryBudget`, and then the scoring
fails. Answers so far are kept as partial scores, so the next run sends only the missing prompts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.evaluate.scoring.completion import Completion, thought_tokens_of, tokens_of, trouble_of
from tasks.evaluate.scoring.endpoint import base_of, make_client
from tasks.evaluate.scoring.model_files import ModelFiles
from tasks.evaluate.scoring.model_thoughts import read_thoughts
from tasks.evaluate.scoring.partial_scores import PartialScores, finish_suite, open_partial_scores
from tasks.evaluate.scoring.retries import RetryBudget, describe_error, rejects_only_this_item
from tasks.evaluate.scoring.scores import Conditions, ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.assertions import Answer, assertions_version
from tasks.evaluate.suites.suite import Question, Suite, questions_of
from tasks.evaluate.verdict.comparable import MAX_TROUBLE_SHARE
from weighbridge.errors import ScoringFailed

STOP_CHECK_ITEMS = 8
"""Smallest number of items between two checks for early stopping; a check costs milliseconds."""

GREETING = Answer(text="Hello! How can I help you today?", finish_reason="stop")
"""What a model answers that never saw the question: items that it passes cannot show that a model broke."""

LOOKAHEAD = 4
"""Answers beyond the first missing one, as a multiple of the concurrency: only items without a gap before them may
be evaluated, so answers far ahead of a slow item could be wasted."""


def chat_scorer_name(engine: str, rescored: bool = False) -> str:
    """Name of the scorer of regression suites through an engine, part of the score cache's key.

    Args:
        engine: name, version and flags.
        rescored: whether this is production's second scoring, for the noise floor.
    """
    return f"assertions {assertions_version()} temperature 0 {engine}{' again' if rescored else ''}"


class ChatScorer(BaseModel):
    """Scores one model on regression suites through an endpoint."""

    model_config = ConfigDict(frozen=True)

    endpoint: str
    """The engine's address, with or without `/v1`."""
    model: str
    """The name under which the endpoint serves the model."""
    artifact_digest: str
    """The model's identity in the score cache."""
    engine: str
    """Name, version and flags of the engine, part of the scorer's name."""
    model_files: ModelFiles = ModelFiles()
    rescored: bool = False
    """Whether this is production's second scoring, for the noise floor."""

    @property
    def name(self) -> str:
        """The scorer's name in the score cache."""
        return chat_scorer_name(self.engine, self.rescored)

    @property
    def conditions(self) -> Conditions:
        """Conditions of the scoring, for the comparability check."""
        return Conditions(
            scorer="weighbridge chat",
            parsing=f"assertions {assertions_version()}",
            engine=self.engine,
            **self.model_files.model_dump(),
        )


def score_by_chat(
    scorer: ChatScorer,
    suite: Suite,
    *,
    api_key: str | None,
    cache: ScoreCache,
    concurrency: int = 8,
    retry_seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    order: Sequence[str] = (),
    first: Collection[str] = (),
    stop: Callable[[list[ItemScore]], bool] | None = None,
) -> SuiteScores:
    """Score a model on a regression suite; assertions and threshold of an item decide its score.

    Args:
        scorer: the model and its endpoint.
        suite: a regression suite.
        api_key: sent as a bearer token if given.
        cache: holds earlier scores, finished or partial, and receives the new ones.
        concurrency: prompts sent at once.
        retry_seconds: time limit of one request with its retries; see `RetryBudget`.
        progress: called with the number of scored items and of all items.
        order: ids in the order in which items are evaluated; the suite's own by default.
        first: ids that are all sent, and before the others.
        stop: called with the items scored so far, in that order and without gaps; True ends the scoring.

    Returns:
        The scores of the whole suite, or of the items evaluated until `stop` returned True (with `suite_items` set).

    Raises:
        ScoringFailed: an item got no answer within the retry budget, or too many got an error. Answers so far are
            kept and not requested again.
    """
    key = {"artifact_digest": scorer.artifact_digest, "suite_digest": suite.digest, "scorer": scorer.name}
    with open_partial_scores(cache.partial_scores_path(**key)) as partial_scores:
        # Another process may have finished the suite while this one waited for the lock.
        cached = cache.find(**key)
        if cached is not None:
            partial_scores.delete()
            return cached
        questions = {question.id: question for question in questions_of(suite.path)}
        if tuple(questions) != suite.ids:
            raise ScoringFailed("The suite changed while it was being scored.", "Run it again.", where=suite.name)
        ordered = [questions[id] for id in order or suite.ids]
        retry_budget = RetryBudget(retry_seconds, concurrency)
        run = _ChatRun(scorer, ordered, partial_scores, api_key, retry_budget, progress, stop)
        items = run.score(concurrency, frozenset(first))
        return finish_suite(cache, partial_scores, suite, key, items, scorer.conditions)


class _ChatRun:
    """The concurrent requests of one suite."""

    def __init__(
        self,
        scorer: ChatScorer,
        questions: list[Question],
        partial_scores: PartialScores,
        api_key: str | None,
        retry_budget: RetryBudget,
        progress: Callable[[int, int], None] | None,
        stop: Callable[[list[ItemScore]], bool] | None,
    ) -> None:
        self.base, self.model = base_of(scorer.endpoint), scorer.model
        self.family, self.opened_by_prompt = read_thoughts(scorer.model_files.thoughts)
        self.questions, self.partial_scores, self.api_key = questions, partial_scores, api_key
        self.retry_budget, self.stop = retry_budget, stop or (lambda items: False)
        self.progress = progress or (lambda done, total: None)
        self.items = dict(partial_scores.items)
        self.errors = 0
        self.order = [question.id for question in questions]
        self.without_gap = 0
        """Length of the order's beginning in which every item is scored."""
        self.evaluated = 0
        """The same at the last check of `stop`."""

    def score(self, concurrency: int, first: frozenset[str]) -> list[ItemScore]:
        """Send the missing prompts; return the evaluated items in order, then the others of `first`."""
        missing = [question for question in self.questions if question.id not in self.items]
        missing.sort(key=lambda question: question.id not in first)
        self.progress(len(self.items), len(self.questions))
        if not self._may_stop(first):
            self._send_all(missing, concurrency, first)
        evaluated = self.order[: self.evaluated]
        others = [id for id in self.order[self.evaluated :] if id in first]
        return [self.items[id] for id in (*evaluated, *others)]

    def _send_all(self, missing: list[Question], concurrency: int, first: frozenset[str]) -> None:
        waiting, running, answered = deque(missing), set[Future[ItemScore]](), 0
        with make_client(self.api_key) as client, ThreadPoolExecutor(concurrency) as pool:
            self.partial_scores.start_clock()
            try:
                while waiting or running:
                    # Wait for an item that is slow or retried: requests that are not sent yet can be spared.
                    too_far_ahead = bool(running) and self._scored_beyond_gap(first) > LOOKAHEAD * concurrency
                    for _ in range(0 if too_far_ahead else min(2 * concurrency - len(running), len(waiting))):
                        running.add(pool.submit(self._score_item, client, waiting.popleft()))
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    self._take(finished)
                    checks, answered = answered // STOP_CHECK_ITEMS, answered + len(finished)
                    is_due = answered // STOP_CHECK_ITEMS > checks or not (waiting or running)
                    if is_due and self._may_stop(first):
                        break
            finally:
                self.retry_budget.end()
                # Running requests finish and their answers are kept; requests that are not sent yet are cancelled.
                pool.shutdown(cancel_futures=True)
                self._keep(
                    [future.result() for future in running if not future.cancelled() and future.exception() is None]
                )

    def _may_stop(self, first: frozenset[str]) -> bool:
        """Whether all of `first` are scored and the items without a gap decide the verdict."""
        self._advance()
        self.evaluated = self.without_gap
        so_far = [self.items[id] for id in self.order[: self.without_gap]]
        return bool(so_far) and first <= self.items.keys() and self.stop(so_far)

    def _advance(self) -> None:
        while self.without_gap < len(self.order) and self.order[self.without_gap] in self.items:
            self.without_gap += 1

    def _scored_beyond_gap(self, first: frozenset[str]) -> int:
        """Number of items scored beyond the first gap, apart from those of `first`."""
        self._advance()
        without_gap = set(self.order[: self.without_gap])
        return sum(id not in without_gap and id not in first for id in self.items)

    def _take(self, finished: Collection[Future[ItemScore]]) -> None:
        failures = [error for future in finished if (error := future.exception()) is not None]
        self._keep([future.result() for future in finished if future.exception() is None])
        if failures:
            raise failures[0]
        if self.errors > MAX_TROUBLE_SHARE * len(self.questions):
            last = next(item for item in reversed(self.items.values()) if item.trouble == "error")
            raise ScoringFailed(
                f"{self.errors} of {len(self.items)} items got an error for an answer, the last of them {last.id}: "
                f"{last.answer}",
                "Look at the engine's log and the item, then run it again: answers so far are kept.",
                where=self.base,
            )

    def _keep(self, items: Sequence[ItemScore]) -> None:
        self.items |= {item.id: item for item in items}
        # Errors are not kept on disk: they are retried when the scoring is resumed.
        errors = sum(item.trouble == "error" for item in items)
        self.errors += errors
        if len(items) > errors:
            self.partial_scores.add([item for item in items if item.trouble != "error"])
        for number in range(len(self.items) - len(items), len(self.items)):
            self.progress(number + 1, len(self.questions))

    def _score_item(self, client: httpx.Client, question: Question) -> ItemScore:
        body = {"model": self.model, **question.request}
        try:
            response = self.retry_budget.post(client, f"{self.base}/chat/completions", body)
            return self._grade(question, response)
        except ValidationError:
            return _error_score(question, f"not an OpenAI chat completion: {response.text[:300]}")
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and rejects_only_this_item(error):
                return _error_score(question, describe_error(error))
            raise ScoringFailed(
                f"The item {question.id} got no answer within the time for retries: {describe_error(error)}",
                "Look at the engine and its log, then run it again: answers so far are kept.",
                where=self.base,
            ) from error

    def _grade(self, question: Question, response: httpx.Response) -> ItemScore:
        completion = Completion.model_validate_json(response.content)
        answer = Answer.from_choice(
            completion.choices[0],
            response.elapsed.total_seconds(),
            markers=question.thought_markers,
            family=self.family,
            opened_by_prompt=self.opened_by_prompt,
        )
        trouble = trouble_of(question, answer, completion)
        return ItemScore(
            id=question.id,
            # What ended inside the thought is no answer, so that `not-contains` does not hold of it either.
            score=0.0 if trouble == "unfinished thought" else question.score(question.grade(answer)),
            answer=answer.shown,
            question=question.messages[-1].content,
            must_pass=question.must_pass,
            cluster=question.cluster,
            chance=question.score(question.grade(GREETING)),
            trouble=trouble,
            latency_seconds=round(response.elapsed.total_seconds(), 4),
            tokens=tokens_of(completion, answer),
            thinks=bool(answer.thought or answer.unfinished_thought),
            thought_tokens=thought_tokens_of(completion, answer),
        )


def _error_score(question: Question, message: str) -> ItemScore:
    return ItemScore(
        id=question.id,
        score=0.0,
        answer=message,
        question=question.messages[-1].content,
        must_pass=question.must_pass,
        cluster=question.cluster,
        trouble="error",
    )
