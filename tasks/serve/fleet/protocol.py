"""Where engines run, as an interface: every other room knows a fleet and its engines, not the machines below.

`LocalFleet` (local.py) runs engines on this machine. Another kind of fleet is a class that fulfils `Fleet`, chosen in
`choice.py`, and that passes `tests/serve/fleet/test_fleet_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from registry.store import Artifact
from tasks.engines import EnginePlan
from tasks.engines import engine as engine_kind
from tasks.serve.endpoint import Endpoint
from weighbridge.line import Line

__all__ = ["Endpoint", "EngineState", "Fleet", "Report", "RunningEngine", "no_report", "plan_engine"]

Report = Callable[[str], None]
"""Takes a sentence on the progress of something that lasts."""


def no_report(sentence: str) -> None:
    """Ignore progress."""


class RunningEngine(BaseModel):
    """One engine of a fleet: one version of one line. Its name identifies it; its endpoints may change."""

    model_config = ConfigDict(frozen=True)

    name: str
    line: str
    artifact: Artifact
    plan: EnginePlan
    endpoints: tuple[Endpoint, ...] = Field(min_length=1)
    key: str = Field("", exclude=True, repr=False)
    """What it demands of every request; empty if nothing. Never written with the record, nor into a step's result."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_record(cls, record: Any) -> Any:
        """Take the one `host` and `port` of records that were written before engines had several endpoints."""
        if isinstance(record, dict) and "endpoints" not in record and "port" in record:
            kept = {key: value for key, value in record.items() if key not in ("host", "port")}
            return {**kept, "endpoints": [{"host": record.get("host", "127.0.0.1"), "port": record["port"]}]}
        return record

    @property
    def url(self) -> str:
        """Address of its OpenAI-compatible server, without `/v1`; the first of several."""
        return self.endpoints[0].url

    @property
    def health_path(self) -> str:
        """Path that answers 200 once the engine can serve."""
        return engine_kind(self.plan.engine).health_path(self.plan)

    @property
    def health_urls(self) -> tuple[str, ...]:
        """Addresses of the health check, one for each endpoint."""
        return tuple(f"{endpoint.url}{self.health_path}" for endpoint in self.endpoints)


class EngineState(BaseModel):
    """State of an engine's process, as whatever runs it reports."""

    model_config = ConfigDict(frozen=True)

    status: Literal["starting", "running", "restarting", "stopped", "failed"]
    pid: int = 0
    """Process on this machine; 0 where there is none."""
    up_seconds: float = 0.0

    @property
    def alive(self) -> bool:
        """True if a process runs, whether or not it answers yet."""
        return self.status in ("starting", "running")


class Fleet(Protocol):
    """All engines of one installation."""

    def engines(self, line_name: str | None = None) -> list[RunningEngine]:
        """List the fleet's engines, or one line's, by name."""

    def find(self, line: Line, artifact: Artifact) -> RunningEngine | None:
        """Find the engine that serves this artifact under this line's plan."""

    def ensure(self, line: Line, artifact: Artifact, report: Report = no_report) -> RunningEngine:
        """Return an engine that serves this artifact: the running one, or a new one, warmed up and proven.

        An engine that was on trial is kept from now on.

        Raises:
            EngineFailed: it does not start, or its first real requests fail; nothing of it is left.
            EngineDiverges: its answers differ from what the artifact computes, and the line refuses that; nothing of
                it is left.
            NoRoomBeside: the memory that it needs is not free.
            ArtifactDamaged: the weights are not those of the manifest.
            StackDown: nothing is there to run it.
        """

    def warm_up(self, engine: RunningEngine, report: Report = no_report) -> None:
        """Wait until an engine is up, and send it its first real requests.

        Raises:
            EngineFailed: it does not become ready, or answers its first requests wrongly.
        """

    def is_warm(self, engine: RunningEngine) -> bool:
        """True if the engine can take traffic at once: its process runs and answers."""

    def state(self, engine: RunningEngine) -> EngineState | None:
        """State of the engine's process; None if there is no such process."""

    def stop(self, engine: RunningEngine) -> None:
        """Stop an engine and forget it; harmless when it is gone. The caller has drained it."""

    def trial(
        self, line: Line, artifact: Artifact, report: Report = no_report
    ) -> AbstractContextManager[RunningEngine]:
        """An engine for scoring: the running one if there is one, else one that is stopped after the block."""

    def on_trial(self, engine: RunningEngine) -> bool:
        """True if the engine runs only to be scored."""

    def mark_rotation(self, engine: RunningEngine, serves: bool) -> None:
        """Record that an engine serves, or that it left rotation now if it has not left before."""

    def out_since(self, engine: RunningEngine | None) -> float:
        """Time at which an engine left rotation, seconds since the epoch; 0 if unknown."""

    def expected_start_seconds(self, line: Line) -> float | None:
        """Longest start of the line's engines so far, seconds; None if none was seen."""

    def log_tail(self, engine: RunningEngine, lines: int = 20) -> tuple[str, ...]:
        """Last lines of the engine's log, oldest first; none if there is no log."""

    def free_memory(self) -> dict[str, tuple[float, ...]]:
        """Free memory in GiB by kind of GPU, one number a device; `host` is the machine's own memory."""


def plan_engine(line: Line, version: str | None = None) -> EnginePlan:
    """Build the plan of a line's engines; equal plans on equal artifacts answer alike.

    Args:
        line: whose engine.
        version: of the engine, if it does not run on this machine.
    """
    return EnginePlan(
        engine=line.engine.name,
        engine_version=version or engine_kind(line.engine.name).version(),
        model_name=line.name,
        context=line.target.context,
        concurrency=line.target.concurrency,
        flags=line.engine.flags,
    )
