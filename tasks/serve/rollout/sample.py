"""The requests of one version, and what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from math import isnan, nan
from typing import Any

CLIENT_LEFT = "DC"
"""Envoy's response flag: the client closed its connection before the end of the answer."""

NO_FLAGS = (None, "", "-")

ENGINE_STATUSES = (408, 429)
"""Statuses below 500 that speak of the engine: too slow, too busy. All others of 4xx speak of the request."""

COLUMNS = (
    *("at", "key", "conversation", "prompt", "outcome", "waited_ms"),
    *("first_ms", "token_times_ms", "durations_ms", "token_counts", "byte_counts"),
)


class Outcome(IntEnum):
    """What became of a request."""

    ANSWERED = 0
    FAILED = 1
    """Answered 5xx, cut, or with a fault inside a 200."""
    REFUSED = 2
    """Answered 4xx: a client's mistake, unless production answers alike."""
    LEFT_WAITING = 3
    """Given up by its client before any content."""
    LEFT_READING = 4
    """Given up by its client while it was answered."""
    UNMARKED = 5
    """A stream with its `finish_reason`, but without `[DONE]`: a fault, unless production's engine never sends one."""


@dataclass
class Sample:
    """The requests of one version, in columns of equal length; NaN where the log has no number."""

    at: Sequence[float] = field(default_factory=list)
    """Time of arrival, seconds since the epoch."""
    key: Sequence[str] = field(default_factory=list)
    """Name of the client."""
    conversation: Sequence[str] = field(default_factory=list)
    prompt: Sequence[float] = field(default_factory=list)
    """Length of the request in bytes."""
    outcome: Sequence[int] = field(default_factory=list)
    waited_ms: Sequence[float] = field(default_factory=list)
    """How long a client had waited that gave up."""
    first_ms: Sequence[float] = field(default_factory=list)
    """To the first content of a stream; to the first byte of a whole answer."""
    token_times_ms: Sequence[float] = field(default_factory=list)
    """Time per output token after the first."""
    durations_ms: Sequence[float] = field(default_factory=list)
    """Of whole answers."""
    token_counts: Sequence[float] = field(default_factory=list)
    """Tokens of whole answers."""
    byte_counts: Sequence[float] = field(default_factory=list)
    """Bytes of whole answers."""

    def add(self, entry: dict[str, Any]) -> None:
        """Add one line of the access log."""
        outcome = _outcome(entry)
        first, total, tokens = _first(entry), _number(entry.get("duration_ms")), _number(entry.get("completion_tokens"))
        whole = outcome in (Outcome.ANSWERED, Outcome.UNMARKED)
        left = outcome in (Outcome.LEFT_WAITING, Outcome.LEFT_READING)
        pace = (total - first) / (tokens - 1) if whole and tokens > 1 else nan
        row = (
            *(_seconds(entry.get("time")), str(entry.get("client") or ""), str(entry.get("conversation") or "")),
            *(_number(entry.get("bytes_received")), int(outcome), total if left else nan),
            first if whole or outcome is Outcome.LEFT_READING else nan,
            *((pace, total, tokens, _number(entry.get("bytes_sent"))) if whole else (nan, nan, nan, nan)),
        )
        for name, value in zip(COLUMNS, row, strict=True):
            getattr(self, name).append(value)

    def extend(self, other: Sample) -> None:
        """Add the requests of another stretch of time."""
        for name in COLUMNS:
            getattr(self, name).extend(getattr(other, name))

    def joined(self, other: Sample) -> Sample:
        """The requests of both, as a new sample."""
        return Sample(**{name: [*getattr(self, name), *getattr(other, name)] for name in COLUMNS})

    @property
    def requests(self) -> int:
        """Number of requests."""
        return len(self.outcome)

    @property
    def longest_ms(self) -> float | None:
        """Duration of the slowest whole answer; None without one."""
        return max((value for value in self.durations_ms if not isnan(value)), default=None)


def _outcome(entry: dict[str, Any]) -> Outcome:
    status, flags, fault = _number(entry.get("status")), entry.get("flags"), entry.get("fault")
    if fault not in (None, "", "-", "no_done"):
        # Also where the client left: many do at an error.
        return Outcome.FAILED
    if flags == CLIENT_LEFT and not status >= 400:
        is_waiting = isnan(_first(entry)) or not status > 0
        return Outcome.LEFT_WAITING if is_waiting else Outcome.LEFT_READING
    if not status > 0 or status >= 500 or status in ENGINE_STATUSES:
        return Outcome.FAILED
    if status >= 400:
        return Outcome.REFUSED
    if flags not in NO_FLAGS:
        return Outcome.FAILED
    return Outcome.UNMARKED if fault == "no_done" else Outcome.ANSWERED


def _first(entry: dict[str, Any]) -> float:
    """Time to the first content. A stream's first byte would not do: engines send its head long before."""
    first = _number(entry.get("first_token_ms"))
    is_stream = str(entry.get("content_type") or "").startswith("text/event-stream")
    if not isnan(first) or is_stream or entry.get("flags") == CLIENT_LEFT:
        return first
    return _number(entry.get("first_byte_ms"))


def _seconds(time: object) -> float:
    try:
        return datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return nan


def _number(value: object) -> float:
    """A number of the log, which Envoy writes as a number or as text; NaN if it has none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return nan
