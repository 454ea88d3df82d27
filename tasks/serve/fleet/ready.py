"""From an engine's start to its first healthy answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tasks.serve.fleet.protocol import EngineState
from weighbridge.errors import EngineFailed
from weighbridge.health import answers

MOST_STARTS = 2
"""supervisord restarts what ends. An engine that ended so often before its first answer will not answer the next time
either, and vLLM takes a minute to find that a library is missing."""


def wait_ready(
    name: str,
    health_url: str,
    state: Callable[[], EngineState | None],
    log: Path,
    timeout_seconds: float,
    report: Callable[[str], None],
) -> None:
    """Wait until an engine that was started answers its health check.

    Args:
        name: the engine's.
        health_url: answers 200 once the engine is ready.
        state: returns the present state of its process.
        log: the engine's, for the error.
        timeout_seconds: longest sensible start.
        report: called with a sentence every ten seconds, and at the end.

    Raises:
        EngineFailed: it ended repeatedly, or did not answer in time; its log's last lines are in the message.
    """
    start, reported = time.monotonic(), 0.0
    processes: set[int] = set()
    while (waited := time.monotonic() - start) < timeout_seconds:
        current = state()
        # "restarting" is not the end: supervisord checks once a second for programs to restart.
        if current is None or current.status in ("failed", "stopped"):
            break
        processes |= {current.pid} - {0}
        if len(processes) > MOST_STARTS:
            break
        if answers(health_url):
            report(f"{name} is up after {waited:.0f} s")
            return
        if waited - reported >= 10:
            reported = waited
            restart = " again" if len(processes) > 1 else ""
            report(f"{name} is starting{restart}, {waited:.0f} s")
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
