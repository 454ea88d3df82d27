"""Who used how much: requests and tokens by client, line and day, from the gateway's access log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

LONGEST_LINE = 100_000
"""Bytes of a line that is read; a request's has about 600."""


class Usage(BaseModel):
    """One client's requests to one line on one day."""

    model_config = ConfigDict(frozen=True)

    client: str
    line: str
    day: str
    """UTC, as 2026-11-30."""
    requests: int = 0
    refused: int = 0
    """Of these, answered with a status of 400 or more, such as by a limit."""
    uncounted: int = 0
    """Of the others, without a count of tokens: the client went away, or the engine gave none."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class UsageReport(BaseModel):
    """What the log says, and from when on it says anything."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[Usage, ...]
    since: str = ""
    """Time of the first request in the log; before it, there is no record here. Empty for an empty log."""
    unreadable: int = 0
    """Lines that cannot be read, as a full disk leaves them; their requests are missing."""


def read_usage(log: Path, line: str = "", client: str = "", since_day: str = "") -> UsageReport:
    """Count the requests in an access log. Mirrored requests are not in it.

    Args:
        log: The file; it need not exist.
        line: Only this line; all by default.
        client: Only this client.
        since_day: Only this day and later ones, as 2026-11-30.
    """
    counts: dict[tuple[str, str, str], dict[str, int]] = {}
    first, unreadable = "", 0
    for text in _lines(log):
        try:
            entry = json.loads(text)
            time = str(entry["time"])
        except (ValueError, KeyError, TypeError, RecursionError):
            unreadable += 1
            continue
        first = min(first, time) if first else time
        key = (entry.get("client"), entry.get("line"), time[:10])
        # Health checks, and requests without a valid key, are nobody's.
        if not all(isinstance(part, str) and part not in ("", "-") for part in key):
            continue
        if (line and key[1] != line) or (client and key[0] != client) or key[2] < since_day:
            continue
        _add(counts.setdefault(key, dict.fromkeys(("requests", "refused", "uncounted", *TOKENS), 0)), entry)
    rows = [Usage(client=key[0], line=key[1], day=key[2], **numbers) for key, numbers in counts.items()]
    rows.sort(key=lambda row: (row.day, row.client, row.line))
    return UsageReport(rows=tuple(rows), since=first, unreadable=unreadable)


TOKENS = ("prompt_tokens", "completion_tokens")


def _add(numbers: dict[str, int], entry: dict[str, object]) -> None:
    numbers["requests"] += 1
    if _count(entry.get("status")) >= 400:
        numbers["refused"] += 1
    elif all(entry.get(name) in (None, "-") for name in TOKENS):
        numbers["uncounted"] += 1
    for name in TOKENS:
        numbers[name] += _count(entry.get(name))


def _count(value: object) -> int:
    """A count of the log, which Envoy writes as a number or as text; 0 if it has none."""
    try:
        return max(int(float(str(value))), 0)
    except (ValueError, OverflowError):
        return 0


def _lines(log: Path) -> Iterator[bytes]:
    try:
        file = log.open("rb")
    except FileNotFoundError:
        return
    with file:
        while text := file.readline(LONGEST_LINE):
            # The last line may be in writing.
            if text.endswith(b"\n"):
                yield text
