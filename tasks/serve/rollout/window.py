"""Requests of each version of a line during a stretch of time, from the gateway's access log.

A request is in the log once it has ended, and Envoy writes the log every second: requests that are still being
answered are missing. Both versions are read from the same log, so that whatever affects both shows in both. The log
also tells how things were before: which client asks what, and how fast production is under all of the line's load.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.serve.gateway.log_files import LogFollower, last_lines
from tasks.serve.rollout.sample import Sample

REFUSED_HERE = "lua_response"
"""Envoy's response details: refused by the gateway's own limits."""

HISTORY_SECONDS, HISTORY_BYTES = 900, 16 * 2**20
"""How far back the log is read for how things were before a rollout."""

ALONE_SHARE = 0.8
"""A version has the line's load if it got so much of the requests within ten seconds."""


class Window:
    """One line's requests from now on, by version.

    Args:
        log: the gateway's access log; it need not exist yet.
        line: the line's name.
    """

    def __init__(self, log: Path, line: str) -> None:
        self._follower, self._line = LogFollower(log), line
        self._since = _log_time(datetime.now(UTC))
        self._samples: dict[str, Sample] = {}

    def read(self) -> None:
        """Read the lines that were written since the last call."""
        for line in self._follower.read():
            # A request that arrived before the weight changed belongs to the step before.
            if (entry := _entry(line, self._line)) and str(entry.get("time", "")) >= self._since:
                self._samples.setdefault(entry["version"], Sample()).add(entry)

    def of(self, version: str) -> Sample:
        """The requests of a version so far."""
        return self._samples.get(version, Sample())


def read_history(log: Path, line: str, version: str) -> tuple[Sample, Sample]:
    """Read a version's requests of the last quarter of an hour.

    Args:
        log: the gateway's access log; it need not exist.
        line: the line's name.
        version: of the line.

    Returns:
        All of them, and those of the periods in which the version had almost all of the line's load.
    """
    history, full_load = Sample(), Sample()
    since = _log_time(datetime.now(UTC) - timedelta(seconds=HISTORY_SECONDS))
    texts = last_lines(log, HISTORY_BYTES)
    found = [entry for text in texts if (entry := _entry(text, line)) and str(entry.get("time", "")) >= since]
    # The first 18 characters of a time are its period: 2026-11-30T10:20:3 of ten seconds.
    asked = Counter(str(entry["time"])[:18] for entry in found)
    own = [entry for entry in found if entry["version"] == version]
    answered = Counter(str(entry["time"])[:18] for entry in own)
    for entry in own:
        history.add(entry)
        period = str(entry["time"])[:18]
        if answered[period] >= ALONE_SHARE * asked[period]:
            full_load.add(entry)
    return history, full_load


def _entry(text: bytes, line: str) -> dict[str, Any] | None:
    """A line of the log, if it is a request that a version of this line got."""
    try:
        entry = json.loads(text)
    except ValueError:
        # A full disk cuts lines.
        return None
    if not isinstance(entry, dict) or entry.get("line") != line or not isinstance(entry.get("version"), str):
        return None
    # Refused by a client's limit: the engine never saw the request.
    return None if entry["version"] == "-" or entry.get("details") == REFUSED_HERE else entry


def _log_time(moment: datetime) -> str:
    """A time in the format of the log: such text sorts as time does."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z"
