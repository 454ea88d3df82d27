"""The whole road with a real small model, by the commands that a user would type: `make demo`.

It makes SmolLM2-135M-Instruct a release on a local stand-in for the Hub, brings it to production, weighs INT8 and INT4
against it, promotes one under load, rolls back under load, and shows that a damaged release goes nowhere. Run again, it
takes everything that is finished from the cache.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from examples import damage, hub, smollm2
from examples.load import Load
from stack.report import LineStatus, line_statuses
from tasks.serve.fleet.program import Program
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.installation import ServingInstallation
from weighbridge import prefect_api
from weighbridge.errors import VerdictRegression
from weighbridge.health import answers
from weighbridge.settings import Settings, load_settings, use_libraries

LINE = "smollm2"
HUB_PORT = int(os.environ.get("WEIGHBRIDGE_DEMO_HUB_PORT", "8190"))
CLIENTS = 8
ANSWER_TOKENS, PAUSE_SECONDS = 12, 4.0
"""Users read before they ask again; without a pause the clients take both cores from the engine that is to start."""
CHAPTERS = {
    "Make the releases and start the stack": 27,
    "1  First production, as published": 70,
    "2  Release: INT8 and INT4 against production": 113,
    "3  Approve and promote under load": 69,
    "4  Roll back under load": 14,
    "5  A damaged release goes nowhere": 53,
}
"""Seconds of each chapter on two quiet cores, for the estimate of what is left."""


@dataclass
class Story:
    """The chapters of the demonstration that are done, and an estimate of the time that is left."""

    console: Console = field(default_factory=lambda: Console(soft_wrap=True, highlight=False))
    results: list[tuple[str, str, float]] = field(default_factory=list)
    """Title, result and seconds of each finished chapter."""

    @contextmanager
    def chapter(self, number: int) -> Iterator[list[str]]:
        """Print a heading with the time that is left, time the chapter, keep its result for the summary."""
        title = list(CHAPTERS)[number]
        self.console.rule(f"[bold]{title}", align="left")
        self.console.print(
            f"[dim]Chapter {number + 1} of {len(CHAPTERS)}, about {self.estimate(number)} left in all.[/]"
        )
        start = time.monotonic()
        result: list[str] = []
        yield result
        self.results.append((title, "; ".join(result), time.monotonic() - start))

    def estimate(self, number: int) -> str:
        """Estimate the time from a chapter's start to the end, at the pace of the chapters before it."""
        expected = list(CHAPTERS.values())
        took = sum(seconds for _, _, seconds in self.results)
        pace = took / sum(expected[:number]) if took else 1.0
        minutes, seconds = divmod(round(pace * sum(expected[number:])), 60)
        return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"

    def opening(self) -> None:
        """Say what is to come and how long it takes, before anything is done."""
        cores = os.cpu_count() or 1
        self.console.print(
            f"A small model goes the whole road, in {len(CHAPTERS)} chapters: {self.estimate(0)} on two quiet cores "
            f"(here are {cores}), longer where others use them too. From the second chapter on the estimate follows "
            "this machine's pace. After Ctrl-C `make demo` goes on from what is finished."
        )

    def summary(self, requests: int, failed: int, pages: Sequence[tuple[str, str, str]]) -> None:
        """Print the table at the end, then what a person should look at, the first thing first."""
        table = Table(title="The whole road", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("step", "result", "seconds"):
            table.add_column(column, overflow="fold", justify="right" if column == "seconds" else "left")
        for title, result, seconds in self.results:
            table.add_row(title, result, f"{seconds:.0f}")
        table.add_row("all", "", f"{sum(seconds for _, _, seconds in self.results):.0f}", style="bold")
        self.console.print(table)
        self.console.print(f"Requests of {CLIENTS} streaming clients: {requests}, {failed} failed requests")
        self.console.print("\n[bold]Look at, in this order:[/]")
        for number, (name, address, what) in enumerate(pages, start=1):
            self.console.print(f"{number}  {name:<8} {address}\n            [dim]{what}[/]")
        self.console.print("`make down` stops everything; `make demo` again takes what is finished from the cache.")


def main() -> None:
    """Walk the road; exit status 0 only if every step ended as it should and no request failed."""
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_PORT}"
    settings = load_settings()
    shelf = settings.home / "demo"
    story = Story()
    story.opening()

    with story.chapter(0) as result:
        first = _prepare(settings, shelf)
        result.append(f"{smollm2.REPO} at {first[:12]}; MLflow, Prefect, worker, gateway, Hub stand-in")
    use_libraries(settings)
    installation = ServingInstallation(settings)
    with story.chapter(1) as result:
        result.append(_first_production(installation))
    with story.chapter(2) as result:
        _weighbridge("release", LINE, "--worker")
        candidate = _candidate(installation)
        result.append(f"candidate {candidate['version']} ({candidate['scheme']}) passes")

    key = installation.gateway.key()
    with Load(f"{settings.gateway_url}/v1", key, LINE, CLIENTS, ANSWER_TOKENS, PAUSE_SECONDS) as load:
        with story.chapter(3) as result:
            _weighbridge("approve", LINE, str(candidate["version"]), "--reason", "demo: the verdict is a pass")
            _weighbridge("promote", LINE, "--worker")
            new = _serving(installation)
            _wait_for(lambda: load.by_version.get(str(new), 0) >= CLIENTS, "answers of the new version")
            result.append(f"version {new} serves")
        with story.chapter(4) as result:
            asked = time.time()
            _weighbridge("rollback", LINE, "--reason", "demo")
            production = _serving(installation)
            before = load.by_version.get(str(production), 0)
            _wait_for(lambda: load.by_version.get(str(production), 0) >= before + CLIENTS, "answers of the old version")
            last = load.last_start(str(new), asked)
            gone = f"{last - asked:.1f} s after the command" if last else "before the command was read"
            result.append(f"version {production} serves; last request on {new} {gone}")

    with story.chapter(5) as result:
        second = hub.publish(shelf / "hub", smollm2.REPO, shelf / "damaged")
        lines_before = line_statuses(installation)
        status = _weighbridge("release", LINE, "--scheme", "int8", expect=VerdictRegression.exit_status)
        if line_statuses(installation) != lines_before:
            raise SystemExit("The damaged release changed what is registered or serves.")
        result.append(f"{second[:12]}: regression, exit status {status}, nothing registered")
        hub.publish(shelf / "hub", smollm2.REPO, shelf / "release")

    story.summary(len(load.answers), len(load.failed), _worth_a_look(settings, candidate))
    for answer in load.failed[:5]:
        story.console.print(f"[red]failed[/]: {answer.problem}")
    raise SystemExit(1 if load.failed else 0)


def _worth_a_look(settings: Settings, candidate: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, address and meaning of what a person should see, the first thing first."""
    models = f"{settings.mlflow_url}/#/models"
    report = settings.home / "reports" / LINE / f"{candidate['digest'][:12]}.html"
    secret = prefect_api.secret_file(settings)
    return [
        ("card", f"{models}/{LINE}-candidates/versions/{candidate['version']}", "what a reviewer sees and clicks on"),
        ("report", report.as_uri(), "every answer that differs, side by side; the card links to it too"),
        ("status", "weighbridge status --watch", "what serves now, second by second; Ctrl-C ends it"),
        ("Prefect", settings.prefect_url, f"every run with its steps; it asks for the secret in {secret}"),
        (
            "gateway",
            f"{settings.gateway_url}/v1",
            "for your own client, with the key in gateway/default.key of the home",
        ),
    ]


def _prepare(settings: Settings, shelf: Path) -> str:
    """Make the releases while the stack starts, which waits for its services most of the time.

    Returns:
        Commit of the good release on the Hub stand-in.
    """

    def make_releases() -> str:
        good = _made_once(shelf / "release", smollm2.build)
        _made_once(shelf / "damaged", lambda folder: damage.damage(good, folder))
        return hub.publish(shelf / "hub", smollm2.REPO, good)

    with ThreadPoolExecutor(1) as pool:
        releases = pool.submit(make_releases)
        _weighbridge("up")
        commit: str = releases.result()
    _start_hub(settings, shelf / "hub")
    return commit


def _made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Make a folder, whole or not at all, unless it is there."""
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        subprocess.run(["rm", "-rf", str(partial)], check=True)
        make(partial)
        partial.rename(folder)
    return folder


def _first_production(installation: ServingInstallation) -> str:
    if line_statuses(installation):
        return f"version {_serving(installation)} serves already"
    _weighbridge("release", LINE, "--scheme", "bf16")
    _weighbridge("approve", LINE, "1", "--reason", "demo: the first of its line")
    _weighbridge("promote", LINE, "--worker")
    return f"version {_serving(installation)} serves"


def _start_hub(settings: Settings, folder: Path) -> None:
    Supervisor(settings).run(
        Program(
            name="hub",
            command=(sys.executable, "-m", "examples.hub", "serve", str(folder), "--port", str(HUB_PORT)),
            folder=settings.root,
            log=settings.logs_folder / "hub.log",
        )
    )
    _wait_for(lambda: answers(f"http://127.0.0.1:{HUB_PORT}/api/models/{smollm2.REPO}"), "the Hub stand-in")


def _weighbridge(*arguments: str, expect: int = 0) -> int:
    """Run a command as a user would, with its output on the terminal."""
    command = shlex.join(("weighbridge", *arguments))
    print(f"$ {command}", flush=True)
    done = subprocess.run([sys.executable, "-m", "cli.main", *arguments], check=False)
    if done.returncode != expect:
        raise SystemExit(
            f"`{command}` ended with {done.returncode}, expected {expect}. `make down` stops what runs; once the "
            "cause is mended, `make demo` goes on from what is finished."
        )
    return done.returncode


def _serving(installation: ServingInstallation) -> int:
    """The version with most of the traffic."""
    line: LineStatus = next(line for line in line_statuses(installation) if line.line == LINE)
    if line.serving is None:
        raise SystemExit(f"Nothing serves {LINE}.")
    return line.serving


def _candidate(installation: ServingInstallation) -> dict[str, Any]:
    """The newest quantized candidate."""
    quantized = [version for version in installation.registry.candidates(LINE) if version.scheme != "bf16"]
    newest = max(quantized, key=lambda version: version.version)
    return {"version": newest.version, "scheme": newest.scheme, "digest": newest.digest}


def _wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
