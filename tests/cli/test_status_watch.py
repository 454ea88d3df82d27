"""`weighbridge status --watch` before a gateway whose counts are set by hand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli import status_watch
from cli.status_watch import Watcher, render
from tasks.serve.endpoint import Endpoint
from tasks.serve.fleet.refusal import keep_refusal
from tasks.serve.gateway import Backend, BackendCounters, ClientCounts, LineRoute, Mirror, Routes
from weighbridge.errors import ArtifactDamaged, GatewayFailed
from weighbridge.settings import Settings


class FakeGateway:
    """Stands in for the gateway: its counters are set by the test."""

    def __init__(self) -> None:
        endpoint = Endpoint(host="127.0.0.1", port=9)
        backends = tuple(
            Backend(
                version=number,
                digest="abcdef12" * 8,
                endpoints=(endpoint,),
                weight=int(number == "1") * 100,
            )
            for number in "12"
        )
        self.route = LineRoute(line="toy", backends=backends, mirror=Mirror(version="2", per_cent=5))
        self.counts = {("toy", "1"): ClientCounts(answers=10, errors=1, tokens=100)}
        self.down = False
        self.settings = Settings()

    def routes(self) -> Routes:
        return Routes(lines=(self.route,))

    def client_counts(self) -> dict[tuple[str, str], ClientCounts]:
        if self.down:
            raise GatewayFailed("The gateway does not answer.", "Start it.")
        return self.counts

    def counters(self, line: str, version: str) -> BackendCounters:
        return BackendCounters(requests=0, errors_5xx=0, broken=0, active=3, healthy=version == "1")


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the watcher reads; the test sets them."""
    now = [100.0]
    monkeypatch.setattr(status_watch, "monotonic", lambda: now[0])
    return now


def test_rates_are_of_the_time_between_two_snapshots(gateway: Any, clock: list[float]) -> None:
    watcher = Watcher(gateway)
    first = watcher.take().rows[0]
    assert (first.requests_per_second, first.tokens_per_second, first.active) == (0, 0, 3)
    gateway.counts = {("toy", "1"): ClientCounts(answers=30, errors=2, tokens=1100)}
    clock[0] += 2
    row, mirror = watcher.take().rows
    assert (row.requests_per_second, row.errors_per_second, row.tokens_per_second) == (10, 0.5, 500)
    assert (row.weight, row.health, row.mirror) == (100, "healthy", False)
    assert (mirror.weight, mirror.health, mirror.mirror) == (0, "unhealthy", True)


def test_a_gateway_that_restarts_begins_without_rates(gateway: Any, clock: list[float]) -> None:
    watcher = Watcher(gateway)
    watcher.take()
    gateway.down = True
    assert watcher.take().problem == "The gateway does not answer."
    gateway.down, gateway.counts = False, {}
    clock[0] += 1
    assert [row.requests_per_second for row in watcher.take().rows] == [0, 0]


def test_the_rendered_snapshot_names_all_that_matters(gateway: Any, clock: list[float]) -> None:
    watcher = Watcher(gateway)
    watcher.take()
    gateway.counts = {("toy", "1"): ClientCounts(answers=22, errors=2, tokens=1100)}
    clock[0] += 1
    console = Console(width=100, record=True, force_terminal=False)
    console.print(render(watcher.take()))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["toy", "1", "abcdef12abcd", "100", "healthy", "3", "12.0", "1.0", "1000"] in lines
    assert ["2", "abcdef12abcd", "mirror", "unhealthy", "3", "0.0", "0.0", "0"] in lines


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_ctrl_c_ends_it_quietly(options: list[str]) -> None:
    program = [sys.executable, "-m", "cli.main", "status", "--watch", *options]
    with subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A runner in the background ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == ""
    # Nothing runs here: that is reported, and no reason to end.
    if options:
        assert "does not answer" in json.loads(first)["problem"]


def test_a_refused_engine_shows_why_and_what_to_do(gateway: FakeGateway, tmp_path: Path) -> None:
    error = ArtifactDamaged("store://toy/abc is no longer what was weighed: config.json.", "Release it again.")
    keep_refusal(tmp_path / "engines" / "engine-toy", error)
    gateway.settings = Settings(home=tmp_path)
    backends = tuple(backend.model_copy(update={"engine": "engine-toy"}) for backend in gateway.route.backends)
    gateway.route = gateway.route.model_copy(update={"backends": backends})
    snapshot = Watcher(gateway).take()  # type: ignore[arg-type]
    assert [row.health for row in snapshot.rows] == ["healthy", "refused"]
    console = Console(width=200)
    with console.capture() as shown:
        console.print(render(snapshot))
    assert "toy 2: ArtifactDamaged" in shown.get() and "Release it again." in shown.get()
