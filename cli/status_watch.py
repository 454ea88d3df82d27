"""`status --watch`: weights, health and rates of what serves, every second until Ctrl-C.

It asks the gateway alone: it starts at once, and works while MLflow and Prefect are down.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic, sleep
from typing import NoReturn

import typer
from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from cli.columns import number
from cli.output import INTERRUPTED, say, show_json_line, table, terminal
from tasks.serve.fleet.refusal import refusal
from tasks.serve.gateway import Backend, ClientCounts, Gateway
from weighbridge.errors import GatewayFailed

TICK_SECONDS = 1.0
COLOURS = {"healthy": "green", "unhealthy": "red", "unknown": "yellow", "refused": "red"}


class Row(BaseModel):
    """One version of a line at one moment; rates are means since the snapshot before."""

    model_config = ConfigDict(frozen=True)

    line: str
    version: str
    digest: str
    weight: int
    """Per cent of the line's requests."""
    mirror: bool
    """True if it gets mirrored requests, whose responses are discarded."""
    health: str
    """healthy, unhealthy, unknown, or refused: its engine was not started."""
    reason: str = ""
    """Why it was refused, and what to do."""
    active: int
    requests_per_second: float
    errors_per_second: float
    tokens_per_second: float


class Snapshot(BaseModel):
    """All rows of one moment; none, but a problem, while the gateway does not answer."""

    model_config = ConfigDict(frozen=True)

    time: datetime
    rows: tuple[Row, ...] = ()
    problem: str = ""


class Watcher:
    """Take snapshots, with rates since the snapshot before.

    Args:
        gateway: its counters are read.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._before: dict[tuple[str, str], ClientCounts] = {}
        self._taken_at: float | None = None

    def take(self) -> Snapshot:
        """Read the gateway now; the first snapshot has no rates."""
        time = datetime.now(UTC)
        try:
            now, clock = self._gateway.client_counts(), monotonic()
            seconds = clock - self._taken_at if self._taken_at else 0.0
            rows = tuple(
                self._row(
                    route.line, backend, bool(route.mirror and route.mirror.version == backend.version), now, seconds
                )
                for route in self._gateway.routes().lines
                for backend in route.backends
            )
        except GatewayFailed as problem:
            # The counters of an Envoy that restarts begin at 0.
            self._before, self._taken_at = {}, None
            return Snapshot(time=time, problem=problem.what)
        self._before, self._taken_at = now, clock
        return Snapshot(time=time, rows=rows)

    def _row(
        self, line: str, backend: Backend, mirror: bool, now: dict[tuple[str, str], ClientCounts], seconds: float
    ) -> Row:
        try:
            counters = self._gateway.counters(line, backend.version)
            health, active = "healthy" if counters.healthy else "unhealthy", counters.active
        except GatewayFailed:
            health, active = "unknown", 0
        refused = refusal(self._gateway.settings, backend.engine) if health != "healthy" and backend.engine else None
        where = (line, backend.version)
        new, old = now.get(where, ClientCounts()), self._before.get(where, ClientCounts())

        def rate(later: int, earlier: int) -> float:
            return round(max(0, later - earlier) / seconds, 2) if seconds else 0.0

        return Row(
            line=line,
            version=backend.version,
            digest=backend.digest,
            weight=backend.weight,
            mirror=mirror,
            health="refused" if refused else health,
            reason=str(refused or ""),
            active=active,
            requests_per_second=rate(new.answers, old.answers),
            errors_per_second=rate(new.errors, old.errors),
            tokens_per_second=rate(new.tokens, old.tokens),
        )


def render(snapshot: Snapshot) -> RenderableType:
    """Lay out a snapshot for a person."""
    head = Text(f"{snapshot.time:%H:%M:%S} UTC   Ctrl-C ends", style="dim")
    if snapshot.problem:
        return Group(head, Text(snapshot.problem, style="red"))
    if not snapshot.rows:
        return Group(head, Text("No line serves anything yet."))
    numbers = (number(header) for header in ("active", "requests (/s)", "errors (/s)", "tokens (/s)"))
    shown = table("line", number("version"), "digest", number("weight (%)"), "health", *numbers)
    before = ""
    for row in snapshot.rows:
        name, before = ("" if row.line == before else row.line), row.line
        bad = "red" if row.errors_per_second else ""
        shown.add_row(
            name,
            row.version,
            row.digest[:12],
            "mirror" if row.mirror else str(row.weight),
            Text(row.health, style=COLOURS[row.health]),
            str(row.active),
            f"{row.requests_per_second:.1f}",
            Text(f"{row.errors_per_second:.1f}", style=bad),
            f"{row.tokens_per_second:.0f}",
        )
    reasons = [Text(f"{row.line} {row.version}: {row.reason}", style="red") for row in snapshot.rows if row.reason]
    return Group(head, shown, *reasons)


def watch(gateway: Gateway, as_json: bool) -> NoReturn:
    """Show a snapshot each second until Ctrl-C; as JSON one line each.

    Raises:
        typer.Exit: with status 130, at Ctrl-C.
    """
    watcher, console = Watcher(gateway), terminal()
    try:
        if as_json or not console.is_terminal:
            while True:
                snapshot = watcher.take()
                show_json_line(snapshot.model_dump(mode="json")) if as_json else say(render(snapshot))
                sleep(TICK_SECONDS)
        with Live(render(watcher.take()), console=console, auto_refresh=False) as live:
            while True:
                sleep(TICK_SECONDS)
                live.update(render(watcher.take()), refresh=True)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
