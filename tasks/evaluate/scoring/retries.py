"""Retries of requests to an engine, bounded for each request and for all requests of a suite together."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 15.0
RETRY_SECONDS = 120.0
"""A killed engine answers again within a minute (measured: vLLM on a CPU 45 to 60 s, transformers 25 s)."""
BUDGET_REQUESTS = 5
"""All requests of a suite together may wait this many times as long as one request."""
PERMANENT_STATUSES = (401, 403, 404)
"""The key, the address or the model's name is wrong: no item will be answered."""


class RetryBudget:
    """The time that one suite's requests may spend on waiting for retries.

    Args:
        seconds: time limit of one request with its retries; RETRY_SECONDS if None.
        at_once: number of concurrent requests; they wait side by side.
        sleep: called with the seconds to wait between two attempts; by default it waits until `end` is called.
    """

    def __init__(
        self, seconds: float | None = None, at_once: int = 1, sleep: Callable[[float], None] | None = None
    ) -> None:
        self.seconds = RETRY_SECONDS if seconds is None else seconds
        self._seconds_left = self.seconds * BUDGET_REQUESTS * at_once
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._sleep = sleep or sleep_using_event(self._ended)

    def post(self, client: httpx.Client, url: str, body: dict[str, object]) -> httpx.Response:
        """Post a request and retry transient errors while the budget lasts.

        Raises:
            httpx.HTTPError: the last error.
        """
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            stop=self._is_exhausted,
            wait=self._wait_seconds,
            before_sleep=self._spend,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(lambda: client.post(url, json=body).raise_for_status())

    def end(self) -> None:
        """Give up all requests that wait for a retry, because their answers are no longer needed."""
        self._ended.set()

    def _wait_seconds(self, state: RetryCallState) -> float:
        # Jitter, so that requests that failed together are not repeated together.
        doubled = FIRST_WAIT_SECONDS * 2 ** (state.attempt_number - 1)
        jitter = random.uniform(1, 1.5)
        return max(min(doubled, LONGEST_WAIT_SECONDS) * jitter, _retry_after_seconds(state))

    def _is_exhausted(self, state: RetryCallState) -> bool:
        # The next wait counts too: an endpoint that asks for an hour fails the request at once.
        elapsed = time.monotonic() - state.start_time
        with self._lock:
            too_long = elapsed + state.upcoming_sleep > self.seconds or state.upcoming_sleep > self._seconds_left
        return too_long or self._ended.is_set()

    def _spend(self, state: RetryCallState) -> None:
        with self._lock:
            self._seconds_left -= state.upcoming_sleep


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def rejects_only_this_item(error: httpx.HTTPStatusError) -> bool:
    """Whether the endpoint refuses one item, such as a prompt that is too long, and not the client."""
    status = error.response.status_code
    return 400 <= status < 500 and status not in (*PERMANENT_STATUSES, 429)


def describe_error(error: Exception) -> str:
    """One line for an error message: the status and the body, or the type of a transport error."""
    if isinstance(error, httpx.HTTPStatusError):
        retry_after = error.response.headers.get("Retry-After")
        hint = f" (Retry-After: {retry_after})" if retry_after else ""
        return f"status {error.response.status_code}{hint}: {error.response.text[:300]}"
    return f"{type(error).__name__}: {error}"


def _retry_after_seconds(state: RetryCallState) -> float:
    """Seconds of the response's Retry-After, 0 if absent or unreadable (RFC 9110, 10.2.3: a number, or a date)."""
    error = state.outcome.exception() if state.outcome else None
    text = error.response.headers.get("Retry-After", "") if isinstance(error, httpx.HTTPStatusError) else ""
    if text.isdecimal():
        return float(text)
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
