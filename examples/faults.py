"""What can be made to go wrong at the stand-in for the Hub, and a record of what it served.

A test adds faults while the server runs; each meets the next requests that match it and is then used up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from threading import Lock

FOR_EVER = 2**31


@dataclass
class Fault:
    """One thing that goes wrong; the fields that are set all happen.

    Args:
        path: which requests it meets, by their path with `*` for anything, as in `*/config.json`.
        method: GET, HEAD or `*`.
        times: how many requests it meets before it is used up.
        status: answer with this status and nothing else.
        headers: sent with that answer, as `{"Retry-After": "1"}`.
        delay_seconds: wait before answering.
        cut_after_bytes: break the connection after this much of a file.
        hang_after_bytes: send nothing more after this much of a file, and keep the connection.
        truncated_to_bytes: serve this much of a file, as if it had never been longer.
        bytes_per_second: send a file no faster than this.
        damaged: send a file with one byte altered.
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
    damaged: bool = False


@dataclass
class Served:
    """One request that was answered, or is being answered."""

    method: str
    path: str
    status: int
    sent_bytes: int = 0
    """Bytes of the file so far; 0 for everything that is no file."""


class Faults:
    """The faults of one server, and what it served; safe to use from the test's thread."""

    def __init__(self, *faults: Fault) -> None:
        self._lock = Lock()
        self._waiting = list(faults)
        self.served: list[Served] = []

    def add(self, fault: Fault) -> None:
        """Let something go wrong from now on."""
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        """Let everything go well again."""
        with self._lock:
            self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that meets this request, counted as used once."""
        with self._lock:
            for fault in self._waiting:
                if fault.times > 0 and fault.method in ("*", method) and fnmatchcase(path, fault.path):
                    fault.times -= 1
                    return fault
        return None

    def sent_bytes(self, path: str = "*") -> int:
        """Bytes of files sent so far for requests whose path matches."""
        return sum(one.sent_bytes for one in self.served if fnmatchcase(one.path, path))
