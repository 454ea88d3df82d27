"""The slot of a run at Prefect: renewed often, and a run that lost it while it was frozen starts again by itself.

A deployment's runs go one at a time: Prefect gives a run a slot for five minutes, which the run renews. A machine that
slept, a paused VM or a stopped process does not renew it, and another run may have the slot by the time it wakes.
Prefect then ends the run as crashed, with a page of traceback. Here the slot is renewed every RENEW_SECONDS, so that a
pause of four minutes loses nothing. After a longer one the same run is scheduled again, with its parameters, at most
STARTS_AGAIN times: it takes its finished steps from the cache.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect import flow_engine
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import AwaitingRetry, Crashed

from weighbridge.errors import RunFrozen
from weighbridge.units import duration

RENEW_SECONDS = 30.0
TICK_SECONDS = 1.0
PAUSE_SECONDS = 10.0
"""A tick that is so late was none of a busy machine: the process did not run."""
WATCHED_SECONDS = 90.0
"""So long after a pause Prefect may still find that the run was silent, and mark it as crashed."""
ASK_SECONDS = 5.0
STARTS_AGAIN = 2


class SlotLost(BaseException):
    """Raised in a flow whose slot is gone; like Ctrl-C nothing but the engine handles it."""


class _Pauses:
    """How long this process did not run, as its own clock shows."""

    def __init__(self) -> None:
        self._last = time.time()
        self.longest = 0.0
        self.ended_at = 0.0

    def tick(self) -> bool:
        """Note that the process runs; True if it did not until now."""
        now = time.time()
        paused, self._last = now - self._last - TICK_SECONDS, now
        if paused < PAUSE_SECONDS:
            return False
        self.longest, self.ended_at = max(self.longest, paused), now
        return True

    @property
    def recent(self) -> bool:
        """True for a while after a pause."""
        return time.time() - self.ended_at < WATCHED_SECONDS


class _Slot:
    """The slot of this process's run; there is one run a process."""

    def __init__(self) -> None:
        self.pauses = _Pauses()
        self.lost = False
        self._lock = threading.Lock()
        self._ended = threading.Event()

    @contextmanager
    def held(self, lease: UUID, seconds: float) -> Iterator[None]:
        """Renew the slot until the end of the block."""
        self._ended.clear()
        threading.Thread(target=self._renew, args=(lease, seconds), name="slot-of-the-run", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._ended.set()

    def interrupt(self, *_: object) -> None:
        """Handle the signal of the renewing thread: end the flow, unless it has ended."""
        if not self._ended.is_set():
            raise SlotLost

    def _renew(self, lease: UUID, seconds: float) -> None:
        due = asked = time.monotonic()
        with get_client(sync_client=True) as client:
            while not self._ended.wait(TICK_SECONDS):
                woke = self.pauses.tick()
                now = time.monotonic()
                if now >= due or woke:
                    # Tried again soon where Prefect does not answer; what it does not renew meanwhile it will say.
                    due = now + (RENEW_SECONDS if self._renewed(client, lease, seconds) else ASK_SECONDS)
                if self.pauses.recent and now >= asked:
                    asked = now + ASK_SECONDS
                    self.lost = self.lost or _is_over(client)
                if self.lost:
                    with self._lock:
                        if not self._ended.is_set():
                            os.kill(os.getpid(), signal.SIGUSR1)
                    return

    def _renewed(self, client: SyncPrefectClient, lease: UUID, seconds: float) -> bool:
        try:
            client.renew_concurrency_lease(lease_id=lease, lease_duration=seconds)
        except httpx.HTTPStatusError as error:
            self.lost = error.response.status_code in (httpx.codes.GONE, httpx.codes.NOT_FOUND)
            return False
        except httpx.HTTPError:
            return False
        return True


_slot = _Slot()


def start_again_when_frozen() -> None:
    """Let a run of this process that loses its slot start again by itself."""
    signal.signal(signal.SIGUSR1, _slot.interrupt)
    crash = flow_engine.FlowRunEngine.handle_crash

    @contextmanager
    def keep_slot(lease_id: UUID, lease_duration: float, **_: object) -> Iterator[None]:
        with _slot.held(lease_id, lease_duration):
            yield

    def handle_crash(engine: flow_engine.FlowRunEngine[..., object], exc: BaseException) -> None:
        if isinstance(exc, SlotLost):
            _schedule_again(engine)
            engine._raised = exc  # type: ignore[assignment]
        else:
            crash(engine, exc)

    flow_engine.maintain_concurrency_lease = keep_slot  # type: ignore[assignment]
    flow_engine.FlowRunEngine.handle_crash = handle_crash  # type: ignore[method-assign, assignment]
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_is_told_otherwise)


def _schedule_again(engine: flow_engine.FlowRunEngine[..., object]) -> None:
    assert engine.flow_run is not None
    run = engine.client.read_flow_run(engine.flow_run.id)
    pause = _slot.pauses.longest
    what = (
        f"The process of this run did not run for {duration(pause)}, because its machine slept or it was stopped, and "
        "Prefect gave its slot away."
        if pause
        else "Prefect gave the slot of this run away: it did not hear from the run for five minutes."
    )
    if run.run_count <= STARTS_AGAIN:
        message = f"{what} It starts again by itself, after its finished steps."
        engine.logger.warning(message)
        engine.set_state(AwaitingRetry(message=message), force=True)
        return
    line = (run.parameters or {}).get("line", "LINE")
    frozen = RunFrozen(
        f"{what} It has started again by itself {STARTS_AGAIN} times.",
        f"`weighbridge {engine.flow.name} {line}` continues after the finished steps, on a machine that stays awake.",
    )
    engine.set_state(Crashed(message=str(frozen)), force=True)


def _is_over(client: SyncPrefectClient) -> bool:
    """True if Prefect has ended this run meanwhile, such as for its silence."""
    if (run_id := os.environ.get("PREFECT__FLOW_RUN_ID")) is None:
        return False
    try:
        state = client.read_flow_run(UUID(run_id)).state
    except httpx.HTTPError:
        return False
    return state is not None and state.is_crashed()


def _is_told_otherwise(record: logging.LogRecord) -> bool:
    """Leave out the pages of traceback about a lost slot."""
    return not (record.exc_info and isinstance(record.exc_info[1], SlotLost))
