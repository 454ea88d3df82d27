"""What every engine must say of itself, and what it is told."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict


class EnginePlan(BaseModel):
    """What one engine process is to serve, and how: part of what is weighed and approved."""

    model_config = ConfigDict(frozen=True)

    engine: str
    engine_version: str
    model_name: str
    """Name under which clients ask for it: the line's."""
    context: int
    """Longest prompt plus answer, tokens."""
    concurrency: int
    """Requests at once, each of full context."""
    flags: dict[str, str | int | float | bool] = {}

    @property
    def digest(self) -> str:
        """64 hex digits over all of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def flag_arguments(self) -> list[str]:
        """The line's own flags as `--name value`; true is the flag alone, false is left out."""
        arguments: list[str] = []
        for name, value in self.flags.items():
            if value is False:
                continue
            arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return arguments


class LaunchSpec(BaseModel):
    """How to start an engine; it runs in a folder where `model_name` is the model."""

    model_config = ConfigDict(frozen=True)

    command: tuple[str, ...]
    environment: dict[str, str]


class Engine(Protocol):
    """One kind of engine."""

    ready_seconds: float
    """Longest sensible time from start to the first healthy answer."""

    reads: Literal["safetensors", "GGUF"]
    """The files that it serves; `launch` is not asked for an artifact of the other kind."""

    prompt_log_probabilities: bool
    """Whether it tells a prompt's own log-probabilities (`echo`), so that general suites are scored through it."""

    top_log_probabilities: int
    """Of how many likeliest tokens it tells the log-probabilities where it generates one; 0: of none."""

    def health_path(self, plan: EnginePlan) -> str:
        """Where it answers 200 once it can serve, for the gateway's checks; no evidence that it does."""

    def version(self) -> str:
        """Version of the engine that would be started; part of what is weighed."""

    def launch(self, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
        """How to start it."""
