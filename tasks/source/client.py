"""Calls to the Hub: transient faults are retried, everything else becomes a named error.

The only module that handles huggingface_hub's errors. Transient are: no connection, a broken connection, a timeout,
429 (retried after the time that the Hub asks for) and 5xx. An attempt of a download that received new bytes does not
count against the retry budget.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Self, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception

from weighbridge.errors import SourceStalled, SourceUnknown, SourceUnreachable
from weighbridge.settings import Settings

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

ATTEMPTS = 5
MAX_ATTEMPTS = 1000
"""Of a download whose every attempt receives something; without it a Hub that sends one byte a time would never end."""
FIRST_WAIT_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 20.0
MAX_RETRY_AFTER_SECONDS = 300.0
"""A longer wait that the Hub asks for is an error at once."""
TIMEOUT_SECONDS = 30.0
STALL_SECONDS = 30.0
"""A download that receives nothing for this long is aborted and resumed."""
PACE_SECONDS = 120.0
SLOWEST_BYTES_PER_SECOND = 1024
"""A download that receives less over `PACE_SECONDS` is given up: a byte now and then would never end it."""
TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}

logger = logging.getLogger("weighbridge.source")


@dataclass(frozen=True)
class Hub:
    """The Hub at one address."""

    endpoint: str
    """Address, such as `https://huggingface.co`."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the Hub that an installation uses."""
        return cls(settings.hf_endpoint)

    @property
    def api(self) -> HfApi:
        """huggingface_hub's client for this address; its calls go through `call`."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint)

    def file_url(self, repo: str, path: str, commit: str) -> str:
        """Return the address of a repository's file at a commit."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repo, path, revision=commit, endpoint=self.endpoint)

    def call(
        self,
        call: Callable[[], T],
        *,
        repo: str,
        revision: str,
        attempts: int = ATTEMPTS,
        received_bytes: Callable[[], int] | None = None,
    ) -> T:
        """Call the Hub and retry until it answers or the retry budget is spent.

        Args:
            call: a request through huggingface_hub; must be safe to repeat.
            repo, revision: the subject of the request, for error messages.
            attempts: consecutive attempts without progress.
            received_bytes: bytes of the download so far; an attempt that increased them resets the budget.

        Raises:
            SourceUnknown: no such repository, revision or file, or no right to read it.
            SourceUnreachable: the Hub did not answer, or the answer is not a Hub's.
            SourceStalled: a download started and then received nothing, `attempts` times.
        """
        import httpx
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        budget = _RetryBudget(attempts, received_bytes)
        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            after=budget.count,
            wait=budget.wait_seconds,
            stop=budget.is_spent,
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            return retrying(call)
        except HFValidationError as error:
            raise self._unknown(f"{repo!r} is not a valid repository name: {error}", repo) from None
        except OfflineModeIsEnabled:
            raise self._unreachable(f"{repo} was not requested: HF_HUB_OFFLINE is set", "Unset it") from None
        except HfHubHTTPError as error:
            raise self._named_error(error, repo, revision) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if received_bytes and isinstance(error, httpx.ReadTimeout):
                raise self._stalled(repo, attempts) from None
            reason = str(error) or type(error).__name__
            raise self._unreachable(
                f"The Hub did not answer ({reason})", "Check the network, the proxy variables and HF_ENDPOINT"
            ) from None

    def invalid_answer(self, why: str = "") -> SourceUnreachable:
        """Return the error for an answer that is not a Hub's."""
        what = f"The answer is not a Hub's: {why}." if why else "The answer is not a Hub's."
        return SourceUnreachable(what, "Correct HF_ENDPOINT, or unset it.", where=self.endpoint)

    def unusable(self, why: str) -> SourceUnreachable:
        """Return the error for an answer that is not received to its end."""
        return SourceUnreachable(
            f"The Hub's answer cannot be used: {why}.",
            "Check HF_ENDPOINT and the proxy variables, then run the command again.",
            where=self.endpoint,
        )

    def renamed(self, repo: str, new_name: str) -> SourceUnknown:
        """Return the error for a repository that now has another name, and so perhaps another owner."""
        return SourceUnknown(
            f"{repo} is now called {new_name}.",
            f"If that is the same publisher, write `source: hf://{new_name}` into the line's file.",
            where=f"{self.endpoint}/{repo}",
        )

    def _named_error(self, error: Exception, repo: str, revision: str) -> SourceUnknown | SourceUnreachable:
        """The named error for one of huggingface_hub's."""
        from huggingface_hub.errors import (
            DisabledRepoError,
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        assert isinstance(error, HfHubHTTPError)
        endpoint, status = self.endpoint, error.response.status_code
        # GatedRepoError is a subclass of RepositoryNotFoundError, so it is checked first.
        if isinstance(error, GatedRepoError):
            how = "ask for access" if status == 403 else "accept its terms there, and set HF_TOKEN to a token of yours"
            return SourceUnknown(
                f"{repo} is gated and you have no access to it.", f"Open {endpoint}/{repo}, {how}.", where=endpoint
            )
        if isinstance(error, RevisionNotFoundError):
            return SourceUnknown(
                f"{repo} has no revision {revision!r}.", "Name one of its branches, tags or commits.", where=endpoint
            )
        if isinstance(error, EntryNotFoundError):
            path = error.response.request.url.path.split(f"/{revision}/")[-1]
            return SourceUnknown(
                f"{repo} has no file {path} at {revision}.",
                "Name another revision, or tell its publisher.",
                where=endpoint,
            )
        if isinstance(error, DisabledRepoError):
            return self._unknown(f"The Hub has disabled {repo}", repo)
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
            return self._unknown(f"There is no repository {repo}, or you may not see it", repo)
        return self._unreachable(
            f"The Hub answered {status} to a question about {repo}", "Try again later; check status.huggingface.co"
        )

    def _stalled(self, repo: str, attempts: int) -> SourceStalled:
        return SourceStalled(
            f"The Hub began to send a file of {repo} and then sent nothing for {STALL_SECONDS:g} s, {attempts} times.",
            "Run the command again later, or through another network; downloaded bytes are kept.",
            where=self.endpoint,
        )

    def too_slow(self, path: str) -> SourceStalled:
        """Return the error for a file that comes slower than any line brings it."""
        return SourceStalled(
            f"The Hub sends {path} at less than {SLOWEST_BYTES_PER_SECOND:,} bytes per second.",
            "Run the command again later, or through another network; downloaded bytes are kept.",
            where=self.endpoint,
        )

    def _unknown(self, what: str, repo: str) -> SourceUnknown:
        return SourceUnknown(
            f"{what}.",
            "Check `source` in the line's file; if it is private or gated, set HF_TOKEN to a token that may read it.",
            where=f"{self.endpoint}/{repo}",
        )

    def _unreachable(self, what: str, action: str) -> SourceUnreachable:
        return SourceUnreachable(
            f"{what}.",
            f"{action}, then run the command again; downloaded bytes are kept.",
            where=self.endpoint,
        )


class _RetryBudget:
    """Counts consecutive attempts without progress."""

    def __init__(self, attempts: int, received_bytes: Callable[[], int] | None) -> None:
        self._attempts, self._received_bytes = attempts, received_bytes
        self._without_progress = 0
        self._most_bytes = received_bytes() if received_bytes else 0

    def count(self, _: RetryCallState) -> None:
        """Count a failed attempt; tenacity calls this before `wait_seconds` and `is_spent`."""
        now = self._received_bytes() if self._received_bytes else 0
        # Compare with the most ever: a Hub that restarts from byte 0 each time makes no progress.
        self._without_progress = 0 if now > self._most_bytes else self._without_progress + 1
        self._most_bytes = max(now, self._most_bytes)

    def is_spent(self, state: RetryCallState) -> bool:
        return self._without_progress >= self._attempts or state.attempt_number >= MAX_ATTEMPTS

    def wait_seconds(self, state: RetryCallState) -> float:
        """The Hub's Retry-After, or exponential backoff."""
        error = state.outcome.exception() if state.outcome else None
        backoff = FIRST_WAIT_SECONDS * (2.0 ** max(self._without_progress - 1, 0) + random.random())
        return (_retry_after_seconds(error) if error else 0.0) or min(backoff, MAX_BACKOFF_SECONDS)


def _is_transient(error: BaseException) -> bool:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        transient = error.response.status_code in TRANSIENT_STATUS
        return transient and _retry_after_seconds(error) <= MAX_RETRY_AFTER_SECONDS
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def _retry_after_seconds(error: BaseException) -> float:
    """The wait in an answer's Retry-After (seconds or a date) or in the Hub's RateLimit; 0 without either."""
    response = getattr(error, "response", None)
    if response is None:
        return 0.0
    text = response.headers.get("Retry-After", "")
    try:
        if text.isascii() and text.isdigit():
            return float(text)
        if text:
            return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
        from huggingface_hub.utils import parse_ratelimit_headers

        limit = parse_ratelimit_headers(response.headers) if response.status_code == 429 else None
        return max(0.0, float(limit.reset_in_seconds)) if limit else 0.0
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0  # neither seconds nor a date: ignored


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait = state.next_action.sleep if state.next_action else 0.0
    reason = str(error).strip().split("\n", 1)[0]
    logger.warning("The Hub did not answer (%s); attempt %d in %.0f s", reason, state.attempt_number + 1, wait)
