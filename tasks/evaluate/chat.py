"""Scores on a regression suite: ask an OpenAI-compatible endpoint, check what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from tasks.evaluate.assertions import VERSION
from tasks.evaluate.scores import ItemScore, ScoreBook, SuiteScores
from tasks.evaluate.suites import Question, Suite, questions_of
from weighbridge.errors import ScoringFailed

ATTEMPTS = 5
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 10.0
CONNECT_SECONDS, READ_SECONDS = 10.0, 300.0
"""An answer may wait behind others on a busy CPU; transformers' first request compiles for 40 s."""


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    """The part of an OpenAI chat completion that is used here."""

    model_config = ConfigDict(extra="ignore")

    choices: list[_Choice] = Field(min_length=1)


def ask(
    endpoint: str,
    model: str,
    suite: Suite,
    *,
    artifact_digest: str,
    engine: str,
    api_key: str | None,
    book: ScoreBook,
    concurrency: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> SuiteScores:
    """Ask every question of a regression suite; an item scores 1 when all its assertions hold, else 0.

    Args:
        endpoint: the engine's address, with or without `/v1`.
        model: the name that it serves the model by.
        suite: a regression suite.
        artifact_digest: the model's identity in the book.
        engine: name, version and flags of what answers, part of the scorer's name.
        api_key: sent as a bearer token where there is one.
        book: answers that were given before are taken from it.
        concurrency: questions asked at once.
        progress: called with questions answered and questions in all.

    Raises:
        ScoringFailed: a question got no answer after several attempts; it is named, and nothing is kept.
    """
    scorer = f"assertions {VERSION} temperature 0 {engine}"
    known = book.find(artifact_digest=artifact_digest, suite_digest=suite.digest, scorer=scorer)
    if known is not None:
        return known
    questions = questions_of(suite.path)
    if tuple(question.id for question in questions) != suite.ids:
        raise ScoringFailed("The suite changed while it was asked.", "Run the release again.", where=suite.name)
    started = time.monotonic()
    answered = _ask_all(_base(endpoint), model, questions, api_key, concurrency, progress or (lambda done, total: None))
    scores = SuiteScores(
        suite=suite.name,
        suite_digest=suite.digest,
        artifact_digest=artifact_digest,
        scorer=scorer,
        items=tuple(answered[question.id] for question in questions),
        seconds=time.monotonic() - started,
    )
    book.keep(scores)
    return scores


def _base(endpoint: str) -> str:
    base = endpoint.rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def _ask_all(
    base: str,
    model: str,
    questions: tuple[Question, ...],
    api_key: str | None,
    concurrency: int,
    progress: Callable[[int, int], None],
) -> dict[str, ItemScore]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    answered: dict[str, ItemScore] = {}
    # Engines are on this network: a proxy from the environment has no business between.
    with (
        httpx.Client(headers=headers, timeout=timeout, trust_env=False) as client,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        waiting = [pool.submit(_ask_one, client, base, model, question) for question in questions]
        try:
            for finished in as_completed(waiting):
                item = finished.result()
                answered[item.id] = item
                progress(len(answered), len(questions))
        except BaseException:
            # Leaving the pool waits for what runs; what has not begun is not to begin.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return answered


def _ask_one(client: httpx.Client, base: str, model: str, question: Question) -> ItemScore:
    body = {
        "model": model,
        "messages": [message.model_dump() for message in question.messages],
        "max_tokens": question.max_tokens,
        "temperature": 0,
    }
    started = time.monotonic()
    try:
        response = _post(client, f"{base}/chat/completions", body)
        latency_ms = response.elapsed.total_seconds() * 1000
        answer = _Completion.model_validate_json(response.content).choices[0].message.content
    except (httpx.HTTPError, ValidationError) as error:
        raise ScoringFailed(
            f"The item {question.id} got no answer in {time.monotonic() - started:.0f} s: {_told(error)}",
            "Look at the engine's log (weighbridge status names it), then run the release again.",
            where=base,
        ) from error
    failures = [failure for one in question.assertions if (failure := one.failure(answer, latency_ms))]
    return ItemScore(
        id=question.id,
        score=0.0 if failures else 1.0,
        answer=answer,
        question=question.messages[-1].content,
        must_pass=question.must_pass,
    )


def _post(client: httpx.Client, url: str, body: dict[str, object]) -> httpx.Response:
    retrying = Retrying(
        retry=retry_if_exception(_is_passing),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential_jitter(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, jitter=FIRST_WAIT_SECONDS),
        reraise=True,
    )
    return retrying(lambda: client.post(url, json=body).raise_for_status())


def _is_passing(error: BaseException) -> bool:
    """Whether the same request may well succeed a moment later."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def _told(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}: {error.response.text[:300]}"
    if isinstance(error, ValidationError):
        return "the answer is not an OpenAI chat completion with a text."
    return f"{type(error).__name__}: {error}"
