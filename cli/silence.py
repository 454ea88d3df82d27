"""Why a run that is followed says nothing: a worker that takes no runs, or a process that is frozen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from weighbridge.units import duration

if TYPE_CHECKING:
    from weighbridge.settings import Settings

BEGIN_SECONDS = 20.0
"""A worker polls every 2 s; a busy machine takes some more until a run's process has begun."""
LOOK_SECONDS = 5.0


class Silence:
    """What a person who follows a run should know where nothing happens; each thing is said once.

    Args:
        settings: of the installation.
        flow: name of the flow.
        line: the line's name.
    """

    def __init__(self, settings: Settings, flow: str, line: str) -> None:
        self._settings, self._flow, self._line = settings, flow, line
        self._since = self._looked = time.monotonic()
        self._worker_named = self._frozen_named = False

    def explain(self, *, begun: bool, queued: bool) -> str:
        """Return a sentence, or nothing.

        Args:
            begun: whether the run has a process.
            queued: whether it waits for another run of the same line.
        """
        now = time.monotonic()
        if begun or queued:
            self._since = now
        if now - self._looked < LOOK_SECONDS:
            return ""
        self._looked = now
        if not begun and not queued and now - self._since > BEGIN_SECONDS and not self._worker_named:
            return self._of_worker()
        if begun and self._flow != "release" and not self._frozen_named:
            return self._of_mover()
        return ""

    def _of_worker(self) -> str:
        from stack.worker_life import worker_life

        life = worker_life(self._settings)
        if life.takes_runs:
            return ""
        self._worker_named = True
        return f"The worker does not begin it: {life.sentence}. {life.next_step}."

    def _of_mover(self) -> str:
        from tasks.serve.rollout.holder import read_holder

        holder = read_holder(self._settings, self._line)
        if holder is None or not holder.moves_traffic or not holder.is_frozen():
            return ""
        self._frozen_named = True
        return (
            f"Process {holder.pid}, which moves the traffic of {self._line}, has been frozen for "
            f"{duration(holder.silent_seconds)}. `kill -CONT {holder.pid}` lets it go on; `weighbridge rollback "
            f"{self._line}` takes over and goes back."
        )
