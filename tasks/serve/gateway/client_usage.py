"""Who used how much: requests and tokens by client, line and day, from the gateway's access log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.serve.gateway.log_files import open_log, rotated
from weighbridge.files import write_whole

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
        log: The file; it need not exist. Its rotated files are read too, and the usage of those that are gone.
        line: Only this line; all by default.
        client: Only this client.
        since_day: Only this day and later ones, as 2026-11-30.
    """
    counts: dict[tuple[str, str, str], dict[str, int]] = {}
    earlier = _Earlier.read(log)
    first, unreadable = earlier.since, earlier.unreadable
    for row in earlier.rows:
        if row.day >= since_day and line in ("", row.line) and client in ("", row.client):
            counts[(row.client, row.line, row.day)] = row.model_dump(exclude={"client", "line", "day"})
    for text in _lines(log, earlier.files):
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
        _add(counts.setdefault(key, dict.fromkeys(NUMBERS, 0)), entry)
    rows = [Usage(client=key[0], line=key[1], day=key[2], **numbers) for key, numbers in counts.items()]
    rows.sort(key=lambda row: (row.day, row.client, row.line))
    return UsageReport(rows=tuple(rows), since=first, unreadable=unreadable)


TOKENS = ("prompt_tokens", "completion_tokens")
NUMBERS = ("requests", "refused", "uncounted", *TOKENS)


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


class _Earlier(BaseModel):
    """Usage of the log's files that are gone, or will be gone in a moment: `gateway-access.log-usage.json`."""

    rows: tuple[Usage, ...] = ()
    since: str = ""
    unreadable: int = 0
    files: tuple[str, ...] = ()
    """Names of the last of these files, which a kill may have left."""

    @staticmethod
    def path(log: Path) -> Path:
        return log.with_name(f"{log.name}-usage.json")

    @classmethod
    def read(cls, log: Path) -> _Earlier:
        try:
            return cls.model_validate_json(cls.path(log).read_bytes())
        except FileNotFoundError:
            return cls()


def forget(log: Path, paths: list[Path]) -> None:
    """Delete rotated files of a log, and keep what they say of usage.

    Args:
        log: The log.
        paths: Of its rotated files.
    """
    if not paths:
        return
    earlier = _Earlier.read(log)
    gone = [path for path in paths if path.name.removesuffix(".gz") not in earlier.files]
    counts = {
        (row.client, row.line, row.day): row.model_dump(exclude={"client", "line", "day"}) for row in earlier.rows
    }
    since, unreadable = earlier.since, earlier.unreadable
    for path in gone:
        report = read_usage(path)
        since, unreadable = min(filter(None, (since, report.since)), default=""), unreadable + report.unreadable
        for row in report.rows:
            numbers = counts.setdefault((row.client, row.line, row.day), dict.fromkeys(NUMBERS, 0))
            for name in NUMBERS:
                numbers[name] += getattr(row, name)
    rows = tuple(Usage(client=key[0], line=key[1], day=key[2], **numbers) for key, numbers in sorted(counts.items()))
    names = tuple(path.name.removesuffix(".gz") for path in paths)
    # In this order: a process that is killed between the two leaves files that are known to be counted.
    kept = _Earlier(rows=rows, since=since, unreadable=unreadable, files=names)
    write_whole(_Earlier.path(log), kept.model_dump_json(indent=1))
    for path in paths:
        path.unlink(missing_ok=True)


def _lines(log: Path, counted: tuple[str, ...] = ()) -> Iterator[bytes]:
    for path in (*rotated(log), log):
        if path.name.removesuffix(".gz") in counted:
            continue
        try:
            file = open_log(path)
        except FileNotFoundError:
            continue
        with file:
            while text := file.readline(LONGEST_LINE):
                # The last line may be in writing.
                if text.endswith(b"\n"):
                    yield text
