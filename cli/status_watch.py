"""`status --watch`: what serves, how much it is asked and how it fares, every second until Ctrl-C.

It asks the gateway alone, so that it is there at once and goes on when MLflow and Prefect are down.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import NoReturn

import typer
from pydantic import BaseModel, ConfigDict
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cli.output import INTERRUPTED, say, table
from tasks.serve.gateway import Answered, Backend, Gateway
from weighbridge.errors import GatewayFailed

TICK_SECONDS = 1.0
COLOURS = {"healthy": "green", "unhealthy": "red", "unknown": "yellow"}


class Row(BaseModel):
    """One version of a line at one moment; rates are means since the moment before."""

    model_config = ConfigDict(frozen=True)

    line: str
    version: str
    digest: str
    weight: int
    """Per cent of the line's requests."""
    shadow: bool
    health: str
    active: int
    requests_per_second: float
    errors_per_second: float
    tokens_per_second: float


class Moment(BaseModel):
    """All rows of one moment; none, and why, while the gateway does not answer."""

    model_config = ConfigDict(frozen=True)

    time: datetime
    rows: tuple[Row, ...] = ()
    problem: str = ""


class Watcher:
    """Looks again and again, and tells what happened since the last look.

    Args:
        gateway: whose counts are read.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._before: dict[tuple[str, str], Answered] = {}
        self._looked_at: float | None = None

    def look(self) -> Moment:
        """The present moment; the first has no rates."""
        at = datetime.now(UTC)
        try:
            now, clock = self._gateway.answered(), monotonic()
            seconds = clock - self._looked_at if self._looked_at else 0.0
            rows = tuple(
                self._row(
                    route.line, backend, bool(route.shadow and route.shadow.version == backend.version), now, seconds
                )
                for route in self._gateway.routes().lines
                for backend in route.backends
            )
        except GatewayFailed as problem:
            # Counts of an Envoy that comes back start at nothing.
            self._before, self._looked_at = {}, None
            return Moment(time=at, problem=problem.what)
        self._before, self._looked_at = now, clock
        return Moment(time=at, rows=rows)

    def _row(
        self, line: str, backend: Backend, shadow: bool, now: dict[tuple[str, str], Answered], seconds: float
    ) -> Row:
        try:
            counters = self._gateway.counters(line, backend.version)
            health, active = "healthy" if counters.healthy else "unhealthy", counters.active
        except GatewayFailed:
            health, active = "unknown", 0
        where = (line, backend.version)
        new, old = now.get(where, Answered()), self._before.get(where, Answered())

        def rate(later: int, earlier: int) -> float:
            return round(max(0, later - earlier) / seconds, 2) if seconds else 0.0

        return Row(
            line=line,
            version=backend.version,
            digest=backend.digest,
            weight=backend.weight,
            shadow=shadow,
            health=health,
            active=active,
            requests_per_second=rate(new.answers, old.answers),
            errors_per_second=rate(new.errors, old.errors),
            tokens_per_second=rate(new.tokens, old.tokens),
        )


def picture(moment: Moment) -> RenderableType:
    """A moment as a person sees it."""
    head = Text(f"{moment.time:%H:%M:%S} UTC   Ctrl-C ends", style="dim")
    if moment.problem:
        return Group(head, Text(moment.problem, style="red"))
    if not moment.rows:
        return Group(head, Text("No line serves anything yet."))
    shown = table("line", "version", "digest", "weight", "health", "active", "requests/s", "errors/s", "tokens/s")
    for column in shown.columns[5:]:
        column.justify = "right"
    before = ""
    for row in moment.rows:
        name, before = ("" if row.line == before else row.line), row.line
        bad = "red" if row.errors_per_second else ""
        shown.add_row(
            name,
            row.version,
            row.digest[:12],
            "shadow" if row.shadow else f"{row.weight} %",
            Text(row.health, style=COLOURS[row.health]),
            str(row.active),
            f"{row.requests_per_second:.1f}",
            Text(f"{row.errors_per_second:.1f}", style=bad),
            f"{row.tokens_per_second:.0f}",
        )
    return Group(head, shown)


def watch(gateway: Gateway, as_json: bool) -> NoReturn:
    """Show a moment a second until Ctrl-C; as JSON one line each.

    Raises:
        typer.Exit: with status 130, at Ctrl-C.
    """
    watcher, console = Watcher(gateway), Console()
    try:
        if as_json or not console.is_terminal:
            while True:
                moment = watcher.look()
                print(json.dumps(moment.model_dump(mode="json")), flush=True) if as_json else say(picture(moment))
                sleep(TICK_SECONDS)
        with Live(picture(watcher.look()), console=console, auto_refresh=False) as live:
            while True:
                sleep(TICK_SECONDS)
                live.update(picture(watcher.look()), refresh=True)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
