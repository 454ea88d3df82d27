"""Scores on a regression suite: ask an OpenAI-compatible endpoint, check what it answers.

What an endpoint does not answer is never a wrong answer: requests are tried again as long as `retry_budget` says, and
then the scoring ends. Every answer is in a journal by then, so the next run asks only what is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.evaluate.scoring.endpoint import base_of, make_client
from tasks.evaluate.scoring.model_files import ModelFiles
from tasks.evaluate.scoring.partial_scores import PartialScores, finish_suite, open_partial_scores
from tasks.evaluate.scoring.retries import RetryBudget, describe_error, is_rejected_item
from tasks.evaluate.scoring.scores import Conditions, ItemScore, ScoreCache, SuiteScores, Trouble
from tasks.evaluate.suites.assertions import VERSION, Answer
from tasks.evaluate.suites.suite import Question, Suite, questions_of
from tasks.evaluate.verdict.comparable import MOST_TROUBLE_SHARE
from weighbridge.errors import ScoringFailed

LOOK_EVERY_ITEMS = 8
"""Whether the question is settled is looked up at most this often: it costs milliseconds."""

AHEAD = 4
"""As many times the questions asked at once may be answered beyond the first that is not: only what has no gaps
before it may be looked at."""


class _Usage(BaseModel):
    completion_tokens: int | None = None


class _Completion(BaseModel):
    """The part of an OpenAI chat completion that is used here."""

    model_config = ConfigDict(extra="ignore")

    choices: list[dict[str, Any]] = Field(min_length=1)
    usage: _Usage | None = None


def chat_scorer_name(engine: str, again: bool = False) -> str:
    """What scores regression suites through an engine (name, version and flags), as the book records it."""
    return f"assertions {VERSION} temperature 0 {engine}{' again' if again else ''}"


class ChatScorer(BaseModel):
    """Who is asked, and what is known of it."""

    model_config = ConfigDict(frozen=True)

    endpoint: str
    """The engine's address, with or without `/v1`."""
    model: str
    """The name that it serves the model by."""
    artifact_digest: str
    """The model's identity in the book."""
    engine: str
    """Name, version and flags of what answers, part of the scorer's name."""
    model_files: ModelFiles = ModelFiles()
    again: bool = False
    """Whether this is the second scoring of the same, for the noise floor."""

    @property
    def name(self) -> str:
        """The scorer's name in the book."""
        return chat_scorer_name(self.engine, self.again)

    @property
    def conditions(self) -> Conditions:
        """How its scores come about."""
        return Conditions(
            scorer="weighbridge chat",
            parsing=f"assertions {VERSION}",
            engine=self.engine,
            **self.model_files.model_dump(),
        )


def score_by_chat(
    chat_scorer: ChatScorer,
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
    """Ask the questions of a regression suite; an item scores as its assertions and threshold say.

    Args:
        asking: who is asked.
        suite: a regression suite.
        api_key: sent as a bearer token where there is one.
        book: answers that were given before are taken from it, or from its journal.
        concurrency: questions asked at once.
        patience_seconds: how long one request is tried again; see `retry_budget`.
        progress: called with questions answered and questions in all.
        order: ids in the order in which they are looked at; the suite's own by default.
        first: ids of which all are asked, and before the others.
        stop: called with the items answered so far, in that order and without gaps; True ends the scoring.

    Returns:
        The whole suite's scores, or those that were looked at when `stop` said so (`suite_items` is set then).

    Raises:
        ScoringFailed: a question got no answer while patience lasted, or too many got an error; what was answered is
            kept, and asked no more.
    """
    key = {"artifact_digest": chat_scorer.artifact_digest, "suite_digest": suite.digest, "scorer": chat_scorer.name}
    with open_partial_scores(cache.partial_scores_path(**key)) as journal:
        # Another process may have finished it while this one waited for the journal.
        known = cache.find(**key)
        if known is not None:
            journal.delete()
            return known
        questions = {question.id: question for question in questions_of(suite.path)}
        if tuple(questions) != suite.ids:
            raise ScoringFailed("The suite changed while it was asked.", "Run it again.", where=suite.name)
        ordered = [questions[id] for id in order or suite.ids]
        loop = _Loop(chat_scorer, ordered, journal, api_key, RetryBudget(retry_seconds, concurrency), progress, stop)
        items = loop.run(concurrency, frozenset(first))
        return finish_suite(cache, journal, suite, key, items, chat_scorer.conditions)


class _Loop:
    """The questions of one suite, asked side by side."""

    def __init__(
        self,
        chat_scorer: ChatScorer,
        questions: list[Question],
        journal: PartialScores,
        api_key: str | None,
        retry_budget: RetryBudget,
        progress: Callable[[int, int], None] | None,
        stop: Callable[[list[ItemScore]], bool] | None,
    ) -> None:
        self.base, self.model = base_of(chat_scorer.endpoint), chat_scorer.model
        self.questions, self.journal, self.api_key = questions, journal, api_key
        self.retry_budget, self.stop = retry_budget, stop or (lambda items: False)
        self.progress = progress or (lambda done, total: None)
        self.items = dict(journal.items)
        self.errors = 0
        self.order = [question.id for question in questions]
        self.reached = 0
        self.looked_at = 0

    def run(self, concurrency: int, first: frozenset[str]) -> list[ItemScore]:
        """Ask what is missing; the items looked at, in order, and those that were asked first."""
        missing = [one for one in self.questions if one.id not in self.items]
        missing.sort(key=lambda one: one.id not in first)
        if not self._enough(first):
            self._ask_all(missing, concurrency, first)
        looked_at = self.order[: self.looked_at]
        others = [id for id in self.order[self.looked_at :] if id in first]
        return [self.items[id] for id in (*looked_at, *others)]

    def _ask_all(self, missing: list[Question], concurrency: int, first: frozenset[str]) -> None:
        waiting, running, answered = deque(missing), set[Future[ItemScore]](), 0
        with make_client(self.api_key) as client, ThreadPoolExecutor(concurrency) as pool:
            self.journal.start_clock()
            try:
                while waiting or running:
                    # Not far ahead of an item that is slow or tried again: what is not begun can be spared.
                    far = bool(running) and self._beyond(first) > AHEAD * concurrency
                    for _ in range(0 if far else min(2 * concurrency - len(running), len(waiting))):
                        running.add(pool.submit(self._ask_one, client, waiting.popleft()))
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    self._take(finished)
                    looks, answered = answered // LOOK_EVERY_ITEMS, answered + len(finished)
                    if (answered // LOOK_EVERY_ITEMS > looks or not (waiting or running)) and self._enough(first):
                        break
            finally:
                self.retry_budget.end()
                # What is running gets its answer, and that is kept; what has not begun is not to begin.
                pool.shutdown(cancel_futures=True)
                self._keep([one.result() for one in running if not one.cancelled() and one.exception() is None])

    def _enough(self, first: frozenset[str]) -> bool:
        """Whether all that must be asked is, and what is there without gaps settles the question."""
        self._advance()
        self.looked_at = self.reached
        so_far = [self.items[id] for id in self.order[: self.reached]]
        return bool(so_far) and first <= self.items.keys() and self.stop(so_far)

    def _advance(self) -> None:
        while self.reached < len(self.order) and self.order[self.reached] in self.items:
            self.reached += 1

    def _beyond(self, first: frozenset[str]) -> int:
        """How many items are answered beyond the first gap, other than those that were to be asked first."""
        self._advance()
        looked_at = set(self.order[: self.reached])
        return sum(id not in looked_at and id not in first for id in self.items)

    def _take(self, finished: Collection[Future[ItemScore]]) -> None:
        failures = [error for one in finished if (error := one.exception()) is not None]
        self._keep([one.result() for one in finished if one.exception() is None])
        if failures:
            raise failures[0]
        if self.errors > MOST_TROUBLE_SHARE * len(self.questions):
            last = next(item for item in reversed(self.items.values()) if item.trouble == "error")
            raise ScoringFailed(
                f"{self.errors} of {len(self.items)} items got an error for an answer, the last of them {last.id}: "
                f"{last.answer}",
                "Look at the engine's log and the item, then run it again: what was answered is kept.",
                where=self.base,
            )

    def _keep(self, items: Sequence[ItemScore]) -> None:
        self.items |= {item.id: item for item in items}
        # An error is not for the journal: it is worth another try when the scoring goes on.
        errors = sum(item.trouble == "error" for item in items)
        self.errors += errors
        if len(items) > errors:
            self.journal.add([item for item in items if item.trouble != "error"])
        for number in range(len(self.items) - len(items), len(self.items)):
            self.progress(number + 1, len(self.questions))

    def _ask_one(self, client: httpx.Client, question: Question) -> ItemScore:
        body = {"model": self.model, **question.request}
        try:
            response = self.retry_budget.post(client, f"{self.base}/chat/completions", body)
            return self._scored(question, response)
        except ValidationError:
            return _error(question, f"not an OpenAI chat completion: {response.text[:300]}")
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and is_rejected_item(error):
                return _error(question, describe_error(error))
            raise ScoringFailed(
                f"The item {question.id} got no answer, after all that patience allows: {describe_error(error)}",
                "Look at the engine and its log, then run it again: what was answered is kept.",
                where=self.base,
            ) from error

    def _scored(self, question: Question, response: httpx.Response) -> ItemScore:
        completion = _Completion.model_validate_json(response.content)
        answer = Answer.of_choice(completion.choices[0], response.elapsed.total_seconds())
        return ItemScore(
            id=question.id,
            score=question.score(question.grade(answer)),
            answer=answer.shown,
            question=question.messages[-1].content,
            must_pass=question.must_pass,
            cluster=question.cluster,
            trouble=_trouble(question, answer, completion.usage),
            latency_seconds=round(response.elapsed.total_seconds(), 4),
            tokens=completion.usage.completion_tokens if completion.usage else None,
        )


def _trouble(question: Question, answer: Answer, usage: _Usage | None) -> Trouble:
    if answer.finish_reason == "length":
        # An item that asks for 16 tokens is answered by 16; one that was cut before, or never set a limit, is not.
        tokens = usage.completion_tokens if usage else None
        limited = "max_tokens" in question.model_fields_set
        if not limited or (tokens is not None and tokens < question.max_tokens):
            return "truncated"
    return "" if answer.shown.strip() or answer.refusal else "empty"


def _error(question: Question, said: str) -> ItemScore:
    return ItemScore(
        id=question.id,
        score=0.0,
        answer=said,
        question=question.messages[-1].content,
        must_pass=question.must_pass,
        cluster=question.cluster,
        trouble="error",
    )
