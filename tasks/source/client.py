"""Asking the Hub: passing faults are tried again, everything else becomes a named error.

The only place that knows huggingface_hub's errors. What passes: no connection, a broken one, a time-out,
429 (after the time that the Hub asks for) and 5xx. An attempt of a download that brought something counts as
none: patience is for a Hub that brings nothing.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception

from weighbridge.errors import SourceStalled, SourceUnknown, SourceUnreachable
from weighbridge.settings import load_settings

T = TypeVar("T")

ATTEMPTS = 5
MOST_ATTEMPTS = 1000
"""Of a download whose every attempt brings something, or a Hub that sends a byte a time would hold us for ever."""
FIRST_WAIT_SECONDS = 1.0
LONGEST_GROWN_WAIT_SECONDS = 20.0
LONGEST_WAIT_SECONDS = 300.0
"""A Hub that asks for more than this is not waited for."""
TIMEOUT_SECONDS = 30.0
STALL_SECONDS = 30.0
"""A download that brings no byte for so long is given up, and asked for again from where it is."""
PASSING_STATUS = {408, 429, 500, 502, 503, 504}

logger = logging.getLogger("weighbridge.source")


def call_hub(
    call: Callable[[], T],
    *,
    repo: str,
    revision: str,
    attempts: int = ATTEMPTS,
    reached: Callable[[], int] | None = None,
) -> T:
    """Call the Hub until it answers.

    Args:
        call: asks the Hub through huggingface_hub; must be safe to repeat.
        repo, revision: what is asked about, for the messages.
        attempts: how many in a row may bring nothing.
        reached: how far a download is, in bytes; an attempt that moved it was not in vain.

    Raises:
        SourceUnknown: no such repository, revision or file, or no right to read it.
        SourceUnreachable: the Hub did not answer, or not as a Hub does.
        SourceStalled: a download that the Hub began, and then sent nothing of, `attempts` times.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    patience = _Patience(attempts, reached)
    retrying = Retrying(
        retry=retry_if_exception(_is_passing),
        after=patience.note,
        wait=patience.wait_seconds,
        stop=patience.is_over,
        before_sleep=_tell,
        reraise=True,
    )
    try:
        return retrying(call)
    except HFValidationError as error:
        raise _unknown(f"{repo!r} is not a name the Hub could know: {error}", repo) from None
    except OfflineModeIsEnabled:
        raise _unreachable(f"{repo} was not asked for: HF_HUB_OFFLINE is set", "Unset it") from None
    except HfHubHTTPError as error:
        raise _named(error, repo, revision) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if reached and isinstance(error, httpx.ReadTimeout):
            raise _stalled(repo, attempts) from None
        reason = str(error) or type(error).__name__
        raise _unreachable(
            f"The Hub did not answer ({reason})", "Check the network, the proxy variables and HF_ENDPOINT"
        ) from None


class _Patience:
    """Counts the attempts since the last one that brought something."""

    def __init__(self, attempts: int, reached: Callable[[], int] | None) -> None:
        self._attempts, self._reached = attempts, reached
        self._in_vain = 0
        self._furthest = reached() if reached else 0

    def note(self, _: RetryCallState) -> None:
        """An attempt failed; tenacity calls this before it asks for the wait and the end."""
        now = self._reached() if self._reached else 0
        # The furthest ever: a Hub that begins again from the start each time brings nothing new.
        self._in_vain = 0 if now > self._furthest else self._in_vain + 1
        self._furthest = max(now, self._furthest)

    def is_over(self, state: RetryCallState) -> bool:
        return self._in_vain >= self._attempts or state.attempt_number >= MOST_ATTEMPTS

    def wait_seconds(self, state: RetryCallState) -> float:
        """What the Hub asks for, else growing waits."""
        error = state.outcome.exception() if state.outcome else None
        growing = FIRST_WAIT_SECONDS * (2.0 ** max(self._in_vain - 1, 0) + random.random())
        return (_asked_wait(error) if error else 0.0) or min(growing, LONGEST_GROWN_WAIT_SECONDS)


def _is_passing(error: BaseException) -> bool:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING_STATUS and _asked_wait(error) <= LONGEST_WAIT_SECONDS
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def _asked_wait(error: BaseException) -> float:
    """Seconds in an answer's Retry-After, which may also be a date, or in the Hub's RateLimit; 0 without either."""
    response = getattr(error, "response", None)
    if response is None:
        return 0.0
    text = response.headers.get("Retry-After", "")
    if text.isdigit():
        return float(text)
    if text:
        try:
            return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            return 0.0  # neither seconds nor a date: as if it were not there
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers) if response.status_code == 429 else None
    return float(limit.reset_in_seconds) if limit else 0.0


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait = state.next_action.sleep if state.next_action else 0.0
    reason = str(error).strip().split("\n", 1)[0]
    logger.warning("The Hub did not answer (%s); attempt %d in %.0f s", reason, state.attempt_number + 1, wait)


def _named(error: Exception, repo: str, revision: str) -> SourceUnknown | SourceUnreachable:
    """huggingface_hub's error as one of ours."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    assert isinstance(error, HfHubHTTPError)
    endpoint, status = load_settings().hf_endpoint, error.response.status_code
    # A gated repository counts as not found for huggingface_hub, so it is asked for first.
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
            f"{repo} has no file {path} at {revision}.", "Name another revision, or tell its publisher.", where=endpoint
        )
    if isinstance(error, DisabledRepoError):
        return _unknown(f"The Hub has disabled {repo}", repo)
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
        return _unknown(f"There is no repository {repo}, or you may not see it", repo)
    return _unreachable(
        f"The Hub answered {status} to a question about {repo}", "Try again later; status.huggingface.co may know more"
    )


def _stalled(repo: str, attempts: int) -> SourceStalled:
    return SourceStalled(
        f"The Hub began to send a file of {repo} and then sent nothing for {STALL_SECONDS:g} s, {attempts} times.",
        "Run the command again later, or through another network; what is downloaded is kept.",
        where=load_settings().hf_endpoint,
    )


def _unknown(what: str, repo: str) -> SourceUnknown:
    return SourceUnknown(
        f"{what}.",
        "Check `source` in the line's file; if it is private or gated, set HF_TOKEN to a token that may read it.",
        where=f"{load_settings().hf_endpoint}/{repo}",
    )


def _unreachable(what: str, do: str) -> SourceUnreachable:
    return SourceUnreachable(
        f"{what}.", f"{do}, then run the command again; what is downloaded is kept.", where=load_settings().hf_endpoint
    )
