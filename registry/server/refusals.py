"""Refused requests in the audit log, a bounded number of them.

Whoever reaches the port can have requests refused, so the log takes a burst and then one entry every two minutes. An
entry says how many were left out before it. That is at most 300 KB a day. Accounts that MLflow has signed in have a
bound each, so that nobody hides another's attempts behind their own.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from registry.audit import NOBODY, AuditLog, Request
from weighbridge.errors import WeighbridgeError

ACTION = "mlflow.refused"
"""Action of an entry."""
BURST = 30
"""Entries that are written at once."""
SECONDS_EACH = 120.0
"""After a burst, one entry in this time."""
LONGEST = 200
"""Longest text of a request in an entry, in characters."""

_logger = logging.getLogger("weighbridge.audit")


@dataclass
class _Budget:
    """How many entries may be written now, and how many were left out."""

    at: float
    left: float = BURST
    omitted: int = 0


class Refusals:
    """Writes refused requests into the audit log. It may be called from several threads.

    Args:
        log: The audit log.
        clock: Seconds that only grow.
    """

    def __init__(self, log: AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock, self._lock = log, clock, threading.Lock()
        self._budgets: dict[str, _Budget] = {}

    def write(
        self, request: str, reason: str, address: str, who: Callable[[], str] = lambda: "", account: str = ""
    ) -> None:
        """Write an entry, if there is room for it.

        Args:
            request: Method and path, as sent.
            reason: Why it was refused.
            address: Network address of the client.
            who: Finds the verified account. It is called only for an entry that is written, because it takes a second.
            account: Account that MLflow has signed in, for its own bound; empty for what is refused before that.
        """
        with self._lock:
            now = self._clock()
            budget = self._budgets.setdefault(account, _Budget(now))
            budget.left = min(float(BURST), budget.left + (now - budget.at) / SECONDS_EACH)
            budget.at = now
            if budget.left < 1:
                budget.omitted += 1
                return
            budget.left -= 1
            omitted, budget.omitted = budget.omitted, 0
        more = f"; {omitted} more were refused since the entry before" if omitted else ""
        try:
            self._log.append(
                ACTION,
                "",
                None,
                what=printable(request),
                reason=reason + more,
                who=who() or NOBODY,
                request=Request(model="", address=address, id=secrets.token_hex(8)),
            )
        except (OSError, WeighbridgeError):
            # Refused all the same; an entry that is lost must not open the door.
            _logger.exception("The audit log does not take an entry about a refused request")


def printable(text: str) -> str:
    """Return a short text of printable ASCII; other characters as escapes."""
    short = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return "".join(
        letter if (letter.isascii() and letter.isprintable()) or letter == "…" else ascii(letter)[1:-1]
        for letter in short
    )
