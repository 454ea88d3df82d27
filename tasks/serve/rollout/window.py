"""What each version did for a line's users during a stretch of time, as the gateway's access log tells it.

A request is in the log once it has ended, and Envoy writes the log every second: what is still being
answered is not here. Both versions are read from the same lines, so whatever befalls both befalls both here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CLIENT_LEFT = "DC"
"""Envoy's response flag: the client closed its connection before the answer's end."""

REFUSED_HERE = "lua_response"
"""Envoy's response details: the gateway's own limits answered."""

NO_FLAGS = (None, "", "-")


@dataclass
class Sample:
    """The requests of one version; times in milliseconds."""

    requests: int = 0
    failed: int = 0
    """Answered 4xx or 5xx, cut, or given up by a client that had not got a byte."""
    first_byte_ms: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)
    """Time per output token after the first; only where the log counts tokens."""
    total_ms: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    """Tokens of whole answers; only where the log counts them."""
    sent_bytes: list[float] = field(default_factory=list)
    """Bytes of whole answers."""

    def add(self, entry: dict[str, Any]) -> None:
        """Count one line of the log."""
        self.requests += 1
        status, flags = _number(entry.get("status")) or 0, entry.get("flags")
        left = flags == CLIENT_LEFT
        if status >= 400 or status == 0 or not (left or flags in NO_FLAGS):
            # 4xx too: a version that refuses what the other answers is broken, and the client's own mistakes
            # meet both alike. What the gateway refuses by itself carries no version and is not here.
            self.failed += 1
            return
        first = _number(entry.get("first_token_ms"))
        if first is None:
            # Of a whole answer, that is all there is; of a stream, engines send the head long before a token.
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
        """Count another stretch's requests among these."""
        self.requests, self.failed = self.requests + other.requests, self.failed + other.failed
        for name in ("first_byte_ms", "token_ms", "total_ms", "tokens", "sent_bytes"):
            getattr(self, name).extend(getattr(other, name))


class Window:
    """One line's requests from a moment on.

    Args:
        log: the gateway's access log; it need not be there yet.
        line: whose requests.
    """

    def __init__(self, log: Path, line: str) -> None:
        self._log, self._line = log, line
        self._offset = log.stat().st_size if log.is_file() else 0
        self._part = b""
        # As the log writes the time at which a request came: such text sorts as time does.
        self._since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z"
        self._samples: dict[str, Sample] = {}

    def read(self) -> None:
        """Take in what was written since the last time."""
        if not self._log.is_file():
            return
        if self._log.stat().st_size < self._offset:
            # Somebody rotated it.
            self._offset, self._part = 0, b""
        with self._log.open("rb") as file:
            file.seek(self._offset)
            text = self._part + file.read()
            self._offset = file.tell()
        *lines, self._part = text.split(b"\n")
        for line in lines:
            self._take(line)

    def of(self, version: str) -> Sample:
        """What a version did."""
        return self._samples.get(version, Sample())

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            # A full disk cuts lines.
            return
        if entry.get("line") != self._line or not isinstance(entry.get("version"), str):
            return
        if entry.get("details") == REFUSED_HERE:
            # A client's limit: the engine never saw the request.
            return
        # A request that came before the weight changed belongs to the step before.
        if entry["version"] != "-" and str(entry.get("time", "")) >= self._since:
            self._samples.setdefault(entry["version"], Sample()).add(entry)


def _number(value: object) -> float | None:
    """A number of the log, which Envoy writes as one or as text; None where it has none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
