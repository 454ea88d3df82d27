"""The whole road with a real small model, by the commands that anyone would type: `make demo`.

It makes SmolLM2-135M-Instruct a release on a local stand-in for the Hub, brings it to production, weighs
INT8 and INT4 against it, promotes one under load, rolls back under load, and shows that a damaged release
goes nowhere. Run again, it takes everything finished from the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from examples import damage, hub, smollm2
from examples.load import Load
from tasks.serve.fleet.supervisor import Program, Supervisor
from weighbridge.errors import VerdictRegression
from weighbridge.health import answers
from weighbridge.settings import Settings, load_settings

LINE = "smollm2"
HUB_PORT = int(os.environ.get("WEIGHBRIDGE_DEMO_HUB_PORT", "8190"))
CLIENTS = 8


@dataclass
class Story:
    """What the demonstration has done so far."""

    console: Console = field(default_factory=lambda: Console(soft_wrap=True, highlight=False))
    chapters: list[tuple[str, str, float]] = field(default_factory=list)

    @contextmanager
    def chapter(self, title: str) -> Iterator[list[str]]:
        """Print a heading, time what follows, keep its result for the summary."""
        self.console.rule(f"[bold]{title}", align="left")
        start = time.monotonic()
        result: list[str] = []
        yield result
        self.chapters.append((title, "; ".join(result), time.monotonic() - start))

    def summary(self, requests: int, failed: int, addresses: dict[str, str]) -> None:
        """The table at the end."""
        table = Table(title="The whole road", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("step", "result", "seconds"):
            table.add_column(column, overflow="fold", justify="right" if column == "seconds" else "left")
        for title, result, seconds in self.chapters:
            table.add_row(title, result, f"{seconds:.0f}")
        table.add_row("all", "", f"{sum(seconds for _, _, seconds in self.chapters):.0f}", style="bold")
        self.console.print(table)
        self.console.print(f"Requests of {CLIENTS} streaming clients: {requests}, {failed} failed requests")
        for name, address in addresses.items():
            self.console.print(f"{name:>8}  {address}")
        self.console.print("`make down` stops everything; `make demo` again takes what is finished from the cache.")


def main() -> None:
    """Walk the road; exit status 0 only when every step ended as it should and no request failed."""
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_PORT}"
    settings = load_settings()
    shelf = settings.home / "demo"
    story = Story()

    with story.chapter("Make the releases") as result:
        good = _made(shelf / "release", smollm2.build)
        bad = _made(shelf / "damaged", lambda folder: damage.damage(good, folder))
        first = hub.publish(shelf / "hub", smollm2.REPO, good)
        result.append(f"{smollm2.REPO} at {first[:12]}")
    with story.chapter("Start the stack") as result:
        _weighbridge("up")
        _start_hub(settings, shelf / "hub")
        result.append("MLflow, Prefect, worker, gateway, Hub stand-in")
    with story.chapter("1  First production, as published") as result:
        result.append(_first_production())
    with story.chapter("2  Release: INT8 and INT4 against production") as result:
        _weighbridge("release", LINE, "--worker")
        candidate = _candidate(settings)
        result.append(f"candidate {candidate['version']} ({candidate['scheme']}) passes")

    with Load(f"{settings.gateway_url}/v1", _key(settings), LINE, CLIENTS) as load:
        with story.chapter("3  Approve and promote under load") as result:
            _weighbridge("approve", LINE, str(candidate["version"]), "--reason", "demo: the verdict is a pass")
            _weighbridge("promote", LINE, "--worker")
            new = _serving(settings)
            _wait_for(lambda: load.by_version.get(str(new), 0) >= CLIENTS, "answers of the new version")
            result.append(f"version {new} serves")
        with story.chapter("4  Roll back under load") as result:
            asked = time.time()
            _weighbridge("rollback", LINE, "--reason", "demo")
            back = _serving(settings)
            before = load.by_version.get(str(back), 0)
            _wait_for(lambda: load.by_version.get(str(back), 0) >= before + CLIENTS, "answers of the old version")
            last = load.last_start(str(new), asked)
            gone = f"{last - asked:.1f} s after the command" if last else "before the command was read"
            result.append(f"version {back} serves; last request on {new} {gone}")

    with story.chapter("5  A damaged release goes nowhere") as result:
        second = hub.publish(shelf / "hub", smollm2.REPO, bad)
        before_versions = _status(settings)
        status = _weighbridge("release", LINE, "--scheme", "int8", expect=VerdictRegression.exit_status)
        if _status(settings)["lines"] != before_versions["lines"]:
            raise SystemExit("The damaged release changed what is registered or serves.")
        result.append(f"{second[:12]}: regression, exit status {status}, nothing registered")
        hub.publish(shelf / "hub", smollm2.REPO, good)

    reports = settings.home / "reports" / LINE
    story.summary(
        len(load.answers),
        len(load.failed),
        {
            "MLflow": f"{settings.mlflow_url}/#/models/{LINE}-candidates",
            "Prefect": settings.prefect_url,
            "gateway": f"{settings.gateway_url}/v1",
            "report": str(reports / f"{candidate['digest'][:12]}.html"),
        },
    )
    for answer in load.failed[:5]:
        story.console.print(f"[red]failed[/]: {answer.problem}")
    raise SystemExit(1 if load.failed else 0)


def _made(folder: Path, make: Callable[[Path], object]) -> Path:
    """A folder that is made once, whole or not at all."""
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        subprocess.run(["rm", "-rf", str(partial)], check=True)
        make(partial)
        partial.rename(folder)
    return folder


def _first_production() -> str:
    if _status(load_settings())["lines"]:
        serving = _serving(load_settings())
        return f"version {serving} serves already"
    _weighbridge("release", LINE, "--scheme", "bf16")
    _weighbridge("approve", LINE, "1", "--reason", "demo: the first of its line")
    _weighbridge("promote", LINE)
    return f"version {_serving(load_settings())} serves"


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
    """Run a command as a user would, its output on the terminal."""
    print(f"$ weighbridge {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "cli.main", *arguments], check=False)
    if done.returncode != expect:
        raise SystemExit(f"`weighbridge {' '.join(arguments)}` ended with {done.returncode}, expected {expect}.")
    return done.returncode


def _status(settings: Settings) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "status", "--json"], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _serving(settings: Settings) -> int:
    line = next(one for one in _status(settings)["lines"] if one["line"] == LINE)
    if line["serving"] is None:
        raise SystemExit(f"Nothing serves {LINE}.")
    return int(line["serving"])


def _candidate(settings: Settings) -> dict[str, Any]:
    """The newest candidate that a release has proposed beyond the first."""
    from registry.models.registry import Registry

    passed = [one for one in Registry().candidates(LINE) if one.scheme != "bf16"]
    newest = max(passed, key=lambda one: one.version)
    return {"version": newest.version, "scheme": newest.scheme, "digest": newest.digest}


def _key(settings: Settings) -> str:
    from tasks.serve.gateway import Gateway

    return Gateway(settings).key()


def _wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
