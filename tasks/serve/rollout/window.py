"""Requests of each version of a line during a stretch of time, from the gateway's access log.

A request is in the log once it has ended, and Envoy writes the log every second: requests that are still being
answered are missing. Both versions are read from the same log, so that whatever affects both shows in both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CLIENT_LEFT = "DC"
"""Envoy's response flag: the client closed its connection before the end of the answer."""

REFUSED_HERE = "lua_response"
"""Envoy's response details: refused by the gateway's own limits."""

NO_FLAGS = (None, "", "-")


@dataclass
class Sample:
    """The requests of one version; times in milliseconds."""

    requests: int = 0
    failed: int = 0
    """Answered 4xx or 5xx, cut, or given up by a client before the first byte."""
    first_byte_ms: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)
    """Time per output token after the first; empty where the log counts no tokens."""
    total_ms: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    """Tokens of whole answers; empty where the log counts none."""
    sent_bytes: list[float] = field(default_factory=list)
    """Bytes of whole answers."""

    def add(self, entry: dict[str, Any]) -> None:
        """Add one line of the log."""
        self.requests += 1
        status, flags = _number(entry.get("status")) or 0, entry.get("flags")
        left = flags == CLIENT_LEFT
        if status >= 400 or status == 0 or not (left or flags in NO_FLAGS):
            # 4xx too: a version that refuses what the other answers is broken, and clients' own mistakes
            # are spread over both. Requests that the gateway refuses by itself have no version and are not here.
            self.failed += 1
            return
        first = _number(entry.get("first_token_ms"))
        if first is None:
            # Only a stream has a first token's time. Its first byte would not do: engines send the head long before.
            first = _number(entry.get("first_byte_ms"))
        total = _number(entry.get("duration_ms"))
        if first is not None:
            self.first_byte_ms.append(first)
        if left or total is None:
            return
        self.total_ms.append(total)
        self.sent_bytes.append(_number(entry.get("bytes_sent")) or 0.0)
        tokens = _number(entry.get("completion_tokens"))
        if tokens is None:
            return
        self.tokens.append(tokens)
        if first is not None and tokens > 1:
            self.token_ms.append((total - first) / (tokens - 1))

    def extend(self, other: Sample) -> None:
        """Add the requests of another stretch of time."""
        self.requests, self.failed = self.requests + other.requests, self.failed + other.failed
        for name in ("first_byte_ms", "token_ms", "total_ms", "tokens", "sent_bytes"):
            getattr(self, name).extend(getattr(other, name))


class Window:
    """One line's requests from now on, by version.

    Args:
        log: the gateway's access log; it need not exist yet.
        line: the line's name.
    """

    def __init__(self, log: Path, line: str) -> None:
        self._log, self._line = log, line
        self._offset = log.stat().st_size if log.is_file() else 0
        self._part = b""
        # In the format in which the log has the time of a request's arrival: such text sorts as time does.
        self._since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z"
        self._samples: dict[str, Sample] = {}

    def read(self) -> None:
        """Read the lines that were written since the last call."""
        if not self._log.is_file():
            return
        if self._log.stat().st_size < self._offset:
            # The log was rotated.
            self._offset, self._part = 0, b""
        with self._log.open("rb") as file:
            file.seek(self._offset)
            text = self._part + file.read()
            self._offset = file.tell()
        *lines, self._part = text.split(b"\n")
        for line in lines:
            self._add_line(line)

    def of(self, version: str) -> Sample:
        """The requests of a version so far."""
        return self._samples.get(version, Sample())

    def _add_line(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            # A full disk cuts lines.
            return
        if entry.get("line") != self._line or not isinstance(entry.get("version"), str):
            return
        if entry.get("details") == REFUSED_HERE:
            # Refused by a client's limit: the engine never saw the request.
            return
        # A request that arrived before the weight changed belongs to the step before.
        if entry["version"] != "-" and str(entry.get("time", "")) >= self._since:
            self._samples.setdefault(entry["version"], Sample()).add(entry)


def _number(value: object) -> float | None:
    """A number of the log, which Envoy writes as a number or as text; None if it has none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
