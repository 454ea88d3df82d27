"""How long a request is tried again before its suite ends: with an end in sight, for one request and for all."""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 15.0
RETRY_SECONDS = 120.0
"""An engine that was killed is up again within a minute (measured: vLLM on a CPU 45 to 60 s, transformers 25 s)."""
REQUESTS_WORTH = 5
"""All requests of a suite together may wait for so many times as long as one of them."""
NEVER_PASSES = (401, 403, 404)
"""The key, the address or the model's name is wrong: no item will be answered."""


class RetryBudget:
    """What one suite's requests share: how long they may still wait, all together.

    Args:
        seconds: the longest that one request is tried.
        at_once: how many requests run at the same time; they wait side by side.
    """

    def __init__(self, seconds: float | None = None, at_once: int = 1) -> None:
        self.seconds = RETRY_SECONDS if seconds is None else seconds
        self._left = self.seconds * REQUESTS_WORTH * at_once
        self._lock = threading.Lock()
        self._over = threading.Event()

    def post(self, client: httpx.Client, url: str, body: dict[str, object]) -> httpx.Response:
        """Post until there is an answer, patience ends, or trying again is of no use.

        Raises:
            httpx.HTTPError: the last trouble.
        """
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            stop=self._ends,
            wait=self._wait,
            before_sleep=self._spend,
            sleep=sleep_using_event(self._over),
            reraise=True,
        )
        return retrying(lambda: client.post(url, json=body).raise_for_status())

    def end(self) -> None:
        """Nobody waits for answers any more: requests that are being tried again are given up."""
        self._over.set()

    def _wait(self, state: RetryCallState) -> float:
        # Jitter, so that requests that failed together do not come back together.
        doubled = FIRST_WAIT_SECONDS * 2 ** (state.attempt_number - 1)
        jitter = random.uniform(1, 1.5)
        return max(min(doubled, LONGEST_WAIT_SECONDS) * jitter, _asked_to_wait(state))

    def _ends(self, state: RetryCallState) -> bool:
        # Waiting past the end is of no use: an endpoint that asks for an hour is told so at once.
        elapsed = time.monotonic() - state.start_time
        with self._lock:
            too_long = elapsed + state.upcoming_sleep > self.seconds or state.upcoming_sleep > self._left
        return too_long or self._over.is_set()

    def _spend(self, state: RetryCallState) -> None:
        with self._lock:
            self._left -= state.upcoming_sleep


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a moment later."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def is_rejected_item(error: httpx.HTTPStatusError) -> bool:
    """Whether the endpoint refuses just this request, such as a prompt that is too long for it."""
    status = error.response.status_code
    return 400 <= status < 500 and status not in (*NEVER_PASSES, 429)


def describe_error(error: Exception) -> str:
    """A trouble in words."""
    if isinstance(error, httpx.HTTPStatusError):
        waiting = error.response.headers.get("Retry-After")
        later = f" (it asks to wait {waiting})" if waiting else ""
        return f"status {error.response.status_code}{later}: {error.response.text[:300]}"
    return f"{type(error).__name__}: {error}"


def _asked_to_wait(state: RetryCallState) -> float:
    """Seconds that the endpoint asked for with Retry-After (RFC 9110, 10.2.3: a number, or a date)."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, httpx.HTTPStatusError) else ""
    if asked.isdecimal():
        return float(asked)
    try:
        return max((parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
