"""From an engine's start to its first healthy answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tasks.serve.fleet.protocol import EngineState
from weighbridge.errors import EngineFailed
from weighbridge.health import answers

MOST_STARTS = 2
"""supervisord starts again what ends. An engine that ended so often before it ever answered will not answer the next
time either, and vLLM takes a minute to come as far as a missing library."""


def wait_ready(
    name: str,
    health_url: str,
    state: Callable[[], EngineState | None],
    log: Path,
    patience_seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Wait until an engine that was started answers its health check.

    Args:
        name: the engine's.
        health_url: answers 200 then.
        state: what supervisord says of it.
        log: the engine's, for the error.
        patience_seconds: the longest sensible start.
        tell: called with a sentence now and then.

    Raises:
        EngineFailed: it ended again and again, or did not answer in time; its last words are in the message.
    """
    start, told = time.monotonic(), 0.0
    processes: set[int] = set()
    while (waited := time.monotonic() - start) < patience_seconds:
        now = state()
        # EXITED is not the end: supervisord looks once a second for what it has to start again.
        if now is None or now.status in ("failed", "stopped"):
            break
        processes |= {now.pid} - {0}
        if len(processes) > MOST_STARTS:
            break
        if answers(health_url):
            tell(f"{name} is up after {waited:.0f} s")
            return
        if waited - told >= 10:
            told = waited
            again = " again" if len(processes) > 1 else ""
            tell(f"{name} is starting{again}, {waited:.0f} s")
        time.sleep(0.25)
    how = f"ended {MOST_STARTS} times before it answered," if len(processes) > MOST_STARTS else "did not become ready"
    raise EngineFailed(
        f"{name} {how} within {time.monotonic() - start:.0f} s.{_last_lines(log)}",
        "Read its log for the cause; production is untouched.",
        where=str(log),
    )


def _last_lines(log: Path, count: int = 3) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.is_file() else []
    return f" Its last words: {' / '.join(lines[-count:])[-500:]}" if lines else ""
