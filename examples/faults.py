"""Faults of the stand-in for the Hub, and a record of what it served.

A test adds faults while the server runs. Each applies to the next requests that match it, and is then used up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from threading import Lock

FOR_EVER = 2**31


@dataclass
class Fault:
    """One fault; all fields that are set apply together.

    Args:
        path: pattern of the requests' path, as `*/config.json`.
        method: GET, HEAD or `*`.
        times: number of requests to which it applies.
        status: answer with this status and nothing else.
        headers: of that answer, as `{"Retry-After": "1"}`.
        delay_seconds: wait before answering.
        cut_after_bytes: break the connection after this much of a file.
        hang_after_bytes: send nothing more after this much of a file, and keep the connection.
        truncated_to_bytes: serve this much of a file, as if that were its length.
        bytes_per_second: send a file no faster than this.
        paused_while: send no further block while this returns True.
        damaged: send a file with one byte changed.
    """

    path: str = "*"
    method: str = "GET"
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    cut_after_bytes: int | None = None
    hang_after_bytes: int | None = None
    truncated_to_bytes: int | None = None
    bytes_per_second: float | None = None
    paused_while: Callable[[], bool] | None = None
    damaged: bool = False


@dataclass
class Served:
    """One request, answered or being answered."""

    method: str
    path: str
    status: int
    sent_bytes: int = 0
    """Bytes of the file so far; 0 if the answer is no file."""


class Faults:
    """The faults of one server, and its requests; safe to use from the test's thread."""

    def __init__(self, *faults: Fault) -> None:
        self._lock = Lock()
        self._waiting = list(faults)
        self.served: list[Served] = []

    def add(self, fault: Fault) -> None:
        """Add a fault."""
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Return the first fault that applies to a request, and count its use."""
        with self._lock:
            for fault in self._waiting:
                if fault.times > 0 and fault.method in ("*", method) and fnmatchcase(path, fault.path):
                    fault.times -= 1
                    return fault
        return None

    def sent_bytes(self, path: str = "*") -> int:
        """Return the bytes of files sent so far for requests whose path matches."""
        return sum(served.sent_bytes for served in self.served if fnmatchcase(served.path, path))
