"""The interface of an engine: its properties, its plan and its launch."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from tasks.engines._endpoints import OPENAI, Endpoints
from tasks.engines._memory import EngineProfile


class EnginePlan(BaseModel):
    """Model and load of one engine process; part of every approval."""

    model_config = ConfigDict(frozen=True)

    engine: str
    engine_version: str
    model_name: str
    """The name that clients use: the line's."""
    context: int
    """Longest prompt plus answer, tokens."""
    concurrency: int
    """Concurrent requests, each of full context."""
    flags: dict[str, str | int | float | bool] = {}

    @property
    def digest(self) -> str:
        """SHA-256 of the whole plan, 64 hex digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def flag_arguments(self) -> list[str]:
        """The line's flags as `--name value`; true becomes the flag alone, false is left out."""
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


class KnownArchitectures(BaseModel):
    """The model architectures that an engine lists as its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    """Name and version for a reader."""
    unlisted: Literal["refuses", "asks", "notes"]
    """The watch's reaction to an unlisted architecture: ignore it, ask a person, or only note it."""
    source: str
    architectures: frozenset[str]
    """Class names, as `architectures` in config.json."""


class Engine(ABC):
    """One kind of engine: a file of this folder with a class `Engine(…)`, or a plug-in."""

    memory: ClassVar[tuple[EngineProfile, ...]]
    """Memory profiles, one for each span of versions, oldest first. Required."""

    ready_seconds: ClassVar[float] = 900.0
    """Longest sensible time from start to the first healthy answer."""

    reads: ClassVar[Literal["safetensors", "GGUF"]] = "safetensors"
    """Format of the artifacts that it serves; `launch` is not called for the other format."""

    prompt_log_probabilities: ClassVar[bool] = False
    """Whether it returns a prompt's own log-probabilities (`echo`), so that general suites are scored through it."""

    top_log_probabilities: ClassVar[int] = 0
    """Number of alternatives with log-probabilities at each generated token; 0: none."""

    takes_key: ClassVar[bool] = False
    """Whether it demands `Authorization: Bearer KEY` for everything but its health check, with the key that its process
    finds in WEIGHBRIDGE_ENGINE_KEY. Without one any local user, and any web page of theirs, can use its port."""

    endpoints: ClassVar[Endpoints] = OPENAI
    """Its endpoints that clients may use through the gateway, and how each is counted; all others are refused."""

    architectures: ClassVar[KnownArchitectures | None] = None
    """Architectures that it supports by name; None: it has no list, and only a start shows."""

    def health_path(self, plan: EnginePlan) -> str:
        """Path that answers 200 once the engine can serve, for the gateway's checks; no check of its answers."""
        return "/health"

    def with_key_check(self, spec: LaunchSpec) -> LaunchSpec:
        """Change a launch so that the engine demands its key; only of an engine that `takes_key`."""
        return spec

    @abstractmethod
    def version(self) -> str:
        """Version of the engine that would be started; part of the plan.

        Raises:
            EngineFailed: it is not installed.
        """

    @abstractmethod
    def launch(self, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
        """Build the command and environment that start it.

        Raises:
            EngineFailed: the line has a flag that the engine does not take.
        """
