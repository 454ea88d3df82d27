"""Wait for services that start: as long as they get on, and not a second longer once they have died.

On a busy machine a server takes minutes for what takes seconds otherwise, so time alone says nothing. A service is
waited for while it uses the processor, reads, writes or logs, up to a budget of processor time that no machine's load
changes.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

import psutil

from stack.deploy import ReportService
from stack.services import Service
from tasks.serve.fleet.supervisor import ProgramState, Supervisor
from weighbridge.errors import StackFailed

QUIET_SECONDS = 120.0
"""A process that does nothing for so long waits for something that does not come."""
LONGEST_SECONDS = 3600.0
POLL_SECONDS = 0.3
HEALTH_SECONDS = 20.0
"""For the answer of a service that may be starved of the processor."""
SAID_SECONDS = 15.0
"""Between two sentences on what is waited for."""
LOG_LINES = 15
"""So many of a dead service's last lines are shown."""


def wait_for(
    supervisor: Supervisor,
    expected: Sequence[Service],
    report: ReportService,
    ready: Callable[[Service], bool] | None = None,
    kept: Collection[str] = (),
) -> None:
    """Wait until services are ready.

    Args:
        supervisor: It runs them.
        expected: The services.
        report: Called when one is ready.
        ready: Whether a service is; by default, whether it is healthy.
        kept: Names of those that ran before.

    Raises:
        StackFailed: One died, does nothing, or has used up its processor time; its log is named.
    """
    is_ready = ready or (lambda service: service.healthy(HEALTH_SECONDS))
    missing = {service.name: _Start(service) for service in expected}
    said = time.monotonic()
    while missing:
        states = {state.name: state for state in supervisor.states()}
        for name, start in list(missing.items()):
            start.require_progress(states.get(name))
            if states[name].state == "RUNNING" and is_ready(start.service):
                seconds = max(start.seconds, states[name].up_seconds)
                how = "runs" if name in kept else f"ready after {seconds:.0f} s"
                report(name, f"{how}  {start.service.page_url}".rstrip())
                del missing[name]
        if missing and time.monotonic() - said > SAID_SECONDS:
            said = time.monotonic()
            for name, start in missing.items():
                report(name, f"is not ready yet, after {start.seconds:.0f} s")
        time.sleep(POLL_SECONDS)


class _Start:
    """The start of one service, from the first look at it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._began = self._moved = time.monotonic()
        self._pid = 0
        self._last_progress: tuple[float, int, int] = (0.0, 0, 0)
        self._used_before: float | None = None

    @property
    def seconds(self) -> float:
        """Time since the first look."""
        return time.monotonic() - self._began

    def require_progress(self, state: ProgramState | None) -> None:
        """Check that the service lives and gets on.

        Raises:
            StackFailed: It does not.
        """
        if state is None or state.state in ("FATAL", "BACKOFF", "EXITED", "STOPPED") or self._pid not in (0, state.pid):
            raise self._failed(f"died after {self.seconds:.0f} s. The end of its log:\n{self._last_lines()}")
        self._pid = state.pid or self._pid
        done = self._done(state.pid)
        # It may have run for days before this `up`.
        self._used_before = done[0] if self._used_before is None else self._used_before
        used = done[0] - self._used_before
        if done != self._last_progress:
            self._last_progress, self._moved = done, time.monotonic()
        if used > self.service.ready_seconds:
            raise self._failed(f"has used {used:.0f} s of processor time and is not ready.")
        if time.monotonic() - self._moved > QUIET_SECONDS:
            raise self._failed(f"is not ready after {self.seconds:.0f} s, and does nothing.")
        if self.seconds > LONGEST_SECONDS:
            raise self._failed(f"is not ready after {self.seconds:.0f} s.")

    def _done(self, pid: int) -> tuple[float, int, int]:
        """Processor time of the service's processes, bytes that they read and wrote, and the length of its log."""
        processor, transferred = 0.0, 0
        with contextlib.suppress(psutil.Error):
            first = psutil.Process(pid)
            for process in (first, *first.children(recursive=True)):
                with contextlib.suppress(psutil.Error, OSError, AttributeError):
                    processor += sum(process.cpu_times()[:2])
                    counters = process.io_counters()
                    transferred += counters.read_chars + counters.write_chars
        log = self.service.program.log
        return processor, transferred, log.stat().st_size if log.is_file() else 0

    def _last_lines(self) -> str:
        try:
            with self.service.program.log.open(errors="replace") as file:
                return "".join(deque(file, maxlen=LOG_LINES)).rstrip() or "(empty)"
        except OSError:
            return "(none)"

    def _failed(self, how: str) -> StackFailed:
        name = self.service.name
        return StackFailed(
            f"{name} {how}",
            f"Read `weighbridge logs {name}`, then run `weighbridge up` again.",
            where=str(self.service.program.log),
        )
