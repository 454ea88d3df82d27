"""The gateway's routes: which versions of a line get which share of its requests.

`routes.json` is the single source of truth. The documents that Envoy reads (`discovery.py`) are rendered from it, so
that the next render repairs whatever a process that was killed between the two has left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from tasks.serve.endpoint import Endpoint
from weighbridge.errors import GatewayFailed
from weighbridge.files import write_whole
from weighbridge.line import LINE_NAME, StickyBy
from weighbridge.validation import first_fault

LOCK_SECONDS = 90.0
"""How long a writer waits for the previous one, which itself waits for Envoy at most three times."""

Name = Annotated[str, StringConstraints(pattern=f"^{LINE_NAME.pattern}$")]
# No dot and no colon: Envoy builds names of statistics from it.
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class Backend(_Part):
    """One version of a line on one engine."""

    version: Version
    digest: str = Field(pattern=r"^[0-9a-f]{8,64}$", description="of the artifact that the engine serves")
    engine: str = Field("", description="the engine's name in the fleet; empty in routes of an older version")
    endpoints: tuple[Endpoint, ...] = Field(min_length=1, description="the engine's")
    weight: int = Field(0, ge=0, le=100, description="per cent of the line's requests")
    health_path: str = Field("/health", pattern=r"^/", description="where the engine answers 200 while it can serve")

    @model_validator(mode="before")
    @classmethod
    def _read_old_port(cls, backend: Any) -> Any:
        """Take the one `port`, on 127.0.0.1, of files that were written before backends had endpoints."""
        if isinstance(backend, dict) and "endpoints" not in backend and "port" in backend:
            kept = {key: value for key, value in backend.items() if key != "port"}
            return {**kept, "endpoints": [{"host": "127.0.0.1", "port": backend["port"]}]}
        return backend

    def runs_on(self, name: str, endpoints: Sequence[Endpoint]) -> bool:
        """True if this is the backend of an engine: by its name, or by its ports if the route has no name.

        Routes without a name were written when all engines ran on this machine, so that a port identified one.

        Args:
            name: the engine's in the fleet.
            endpoints: the engine's.
        """
        if self.engine:
            return self.engine == name
        return [endpoint.port for endpoint in self.endpoints] == [endpoint.port for endpoint in endpoints]

    def is_outdated(self, endpoints: Sequence[Endpoint]) -> bool:
        """True if the backend's engine has other endpoints now: it was stopped and started at another port.

        Args:
            endpoints: the engine's.
        """
        # A route without a name was found by its ports, which therefore are the engine's.
        return bool(self.engine) and self.endpoints != tuple(endpoints)


class Limits(_Part):
    """Limits of requests and tokens a minute: a token bucket of one minute's worth that refills evenly."""

    requests_per_minute: int | None = Field(None, ge=1, le=10**9)
    tokens_per_minute: int | None = Field(None, ge=1, le=10**12, description="prompts and answers together")


NO_LIMITS = Limits()


class Mirror(_Part):
    """A version that gets copies of a line's requests; its responses are discarded."""

    version: Version
    per_cent: int = Field(ge=1, le=100, description="of the line's requests")


class QueuedRequests(_Part):
    """The version that requests wait for while a line has no engine."""

    version: Version
    digest: str = Field(pattern=r"^[0-9a-f]{8,64}$", description="its artifact's")
    seconds: float = Field(gt=0, description="about how long one request waits before it is answered 503")


class LineRoute(_Part):
    """A line's versions and their weights; a line without any weight answers 503."""

    line: Name
    backends: tuple[Backend, ...] = ()
    sticky_by: StickyBy = Field("none", description="what stays with one version while the weights stay")
    mirror: Mirror | None = Field(
        None,
        validation_alias=AliasChoices("mirror", "shadow"),
        serialization_alias="shadow",
        description="a version that gets copies of requests; the file calls it `shadow`",
    )
    limits: Limits = Field(NO_LIMITS, description="of each client whose own record says nothing")
    back_at: AwareDatetime | None = Field(
        None, description="of a line without any weight: when its engine is expected again"
    )
    queued: QueuedRequests | None = Field(
        None,
        validation_alias=AliasChoices("queued", "held"),
        serialization_alias="held",
        description="of a line without any weight: the version that its requests wait for; the file calls it `held`",
    )

    @field_validator("backends")
    @classmethod
    def _consistent(cls, backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
        versions = [backend.version for backend in backends]
        if len(set(versions)) < len(versions):
            raise ValueError(f"versions appear twice: {', '.join(versions)}")
        total = sum(backend.weight for backend in backends)
        if total not in (0, 100):
            raise ValueError(f"weights sum to {total}, not to 100 or 0")
        return backends

    @model_validator(mode="after")
    def _mirror_is_known(self) -> LineRoute:
        if self.mirror and self.mirror.version not in [backend.version for backend in self.backends]:
            raise ValueError(f"its mirror {self.mirror.version} is not among its versions")
        return self

    def backend(self, version: str) -> Backend:
        """Find the backend of a version.

        Raises:
            GatewayFailed: the line has no such version.
        """
        for backend in self.backends:
            if backend.version == version:
                return backend
        known = ", ".join(backend.version for backend in self.backends) or "none"
        raise GatewayFailed(
            f"The gateway has no version {version} of {self.line}; it has: {known}.",
            "See what serves with `weighbridge status`.",
            where=self.line,
        )


class Routes(_Part):
    """All lines, in the order of their names."""

    lines: tuple[LineRoute, ...] = ()
    generation: int = Field(0, ge=0, description="grows by one with every change")

    @field_validator("lines")
    @classmethod
    def _named_once(cls, lines: tuple[LineRoute, ...]) -> tuple[LineRoute, ...]:
        names = [route.line for route in lines]
        if len(set(names)) < len(names):
            raise ValueError("a line appears twice")
        return tuple(sorted(lines, key=lambda route: route.line))

    def line(self, name: str) -> LineRoute:
        """Find the route of a line; one without backends if the line is unknown here."""
        return next((route for route in self.lines if route.line == name), LineRoute(line=name))

    def with_line(self, route: LineRoute) -> Routes:
        """Return the next generation, with this line's route replaced."""
        others = tuple(other for other in self.lines if other.line != route.line)
        return Routes(lines=(*others, route), generation=self.generation + 1)

    def without_line(self, name: str) -> Routes:
        """Return the next generation, without a line."""
        return Routes(lines=tuple(route for route in self.lines if route.line != name), generation=self.generation + 1)


class RoutesFile:
    """`routes.json`: complete at any moment, and one writer at a time.

    Args:
        folder: the gateway's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "routes.json"
        self._lock = FileLock(folder / ".lock")

    def load(self) -> Routes:
        """Read the routes; no lines if none were written.

        Raises:
            GatewayFailed: the file is not what this program writes.
        """
        try:
            return Routes.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return Routes()
        except ValidationError as error:
            raise GatewayFailed(
                f"The gateway's routes cannot be read: {first_fault(error)}.",
                "Undo the edit, or delete the file and run `weighbridge promote` for each line.",
                where=str(self.path),
            ) from None

    def save(self, routes: Routes) -> None:
        """Replace the file, synced to disk."""
        write_whole(self.path, routes.model_dump_json(indent=2))

    @contextmanager
    def writing(self, wait_seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Lock other writers out; the operating system releases the lock of a writer that is killed.

        Args:
            wait_seconds: how long to wait for another writer.

        Raises:
            GatewayFailed: another process held it for so long.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=wait_seconds)
        except Timeout:
            raise GatewayFailed(
                f"Another process has been changing the gateway's routes for {wait_seconds:.0f} seconds.",
                "Wait for it or end it, then run the command again.",
                where=str(self.path),
            ) from None
        try:
            yield
        finally:
            self._lock.release()
