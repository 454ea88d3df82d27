"""Asking the Hub: passing faults are tried again, everything else becomes a named error.

The only place that knows huggingface_hub's errors. What passes: no connection, a broken one, a time-out,
429 (after the time that the Hub asks for) and 5xx.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from weighbridge.errors import SourceUnknown, SourceUnreachable
from weighbridge.settings import load_settings

T = TypeVar("T")

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 300.0
"""A Hub that asks for more than this is not waited for."""
TIMEOUT_SECONDS = 30.0
PASSING_STATUS = {408, 429, 500, 502, 503, 504}

logger = logging.getLogger("weighbridge.source")


def ask(call: Callable[[], T], *, repo: str, revision: str, attempts: int = ATTEMPTS) -> T:
    """Call the Hub until it answers.

    Args:
        call: asks the Hub through huggingface_hub; must be safe to repeat.
        repo, revision: what is asked about, for the messages.
        attempts: how often to try at most.

    Raises:
        SourceUnknown: no such repository, revision or file, or no right to read it.
        SourceUnreachable: the Hub did not answer, or not as a Hub does.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    retrying = Retrying(
        retry=retry_if_exception(_is_passing),
        wait=_wait_seconds,
        stop=stop_after_attempt(attempts),
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
        reason = str(error) or type(error).__name__
        raise _unreachable(
            f"The Hub did not answer ({reason})", "Check the network, the proxy variables and HF_ENDPOINT"
        ) from None


def _is_passing(error: BaseException) -> bool:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING_STATUS and _asked_wait(error) <= LONGEST_WAIT_SECONDS
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def _wait_seconds(state: RetryCallState) -> float:
    """What the Hub asks for, else growing waits."""
    error = state.outcome.exception() if state.outcome else None
    asked = _asked_wait(error) if error else 0.0
    growing = wait_exponential_jitter(initial=FIRST_WAIT_SECONDS, max=20, jitter=FIRST_WAIT_SECONDS)
    return asked or float(growing(state))


def _asked_wait(error: BaseException) -> float:
    """Seconds in an answer's Retry-After, which may also be a date; 0 without one."""
    response = getattr(error, "response", None)
    text = response.headers.get("Retry-After", "") if response is not None else ""
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


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
