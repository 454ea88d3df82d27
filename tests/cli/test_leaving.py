"""Ctrl-C, a closed terminal and SIGTERM: what goes on, what is left, and what to type; real processes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.leaving import command_of, ended_here, not_followed
from tasks.serve.endpoint import Endpoint
from tasks.serve.gateway import Backend, Gateway
from tests.support.waiting import wait_for
from weighbridge import prefect_api
from weighbridge.settings import Settings, load_settings

FOLLOWER = """
import cli.main
import cli.app
from cli.flowrun import run_through_worker
from weighbridge.settings import load_settings

@cli.app.app.command()
def follow() -> None:
    run_through_worker(load_settings(), "promote", "toy", {"line": "toy"}, lambda text: print(text, flush=True))

cli.main.run(["follow"])
"""
HERE = """
import sys, time, types
import cli.main
import cli.app
from prefect import flow
from weighbridge.settings import load_settings

@flow
def promote(line: str) -> None:
    try:
        print("moving", flush=True)
        time.sleep(120)
    finally:
        print("put in order", flush=True)

sys.modules["flows.promote"] = types.SimpleNamespace(promote=promote)

@cli.app.app.command()
def here() -> None:
    from cli.flowrun import run_here
    run_here(load_settings(), "promote", {"line": "toy"})

cli.main.run(["here"])
"""


def split(settings: Settings) -> None:
    """Give version 2 of the line a quarter of the requests."""
    backends = [
        Backend(
            version=version,
            digest="a" * 64,
            engine=f"toy-{version}",
            endpoints=(Endpoint(host="127.0.0.1", port=1000 + weight),),
            weight=weight,
        )
        for version, weight in (("1", 75), ("2", 25))
    ]
    Gateway(settings).set_line("toy", backends, wait=False)


def test_the_command_that_goes_on_has_the_options_that_were_given() -> None:
    assert command_of("promote", {"line": "toy", "version": 3}, "--here") == (
        "weighbridge promote toy --version 3 --here"
    )
    given = {"line": "toy", "revision": "v 2", "schemes": ["int8", "int4"]}
    assert command_of("release", given) == "weighbridge release toy --revision 'v 2' --scheme int8 --scheme int4"


def test_ctrl_c_says_who_has_what_and_the_commands(own_home: Path) -> None:
    settings, line = load_settings(), {"line": "toy"}
    split(settings)
    followed = not_followed(settings, "promote", line, "promote-toy")
    assert followed.exit_status == 130
    assert followed.what == (
        "Not followed any more; promote-toy goes on at the worker. Version 1 has 75 %, version 2 has 25 % of the new "
        "requests."
    )
    assert followed.next_step == "`weighbridge promote toy` follows it again; `weighbridge rollback toy` goes back."
    here = ended_here(settings, "promote", line)
    assert "nobody watches it now" in here.what and "version 2 has 25 %" in here.what
    assert here.next_step == (
        "`weighbridge promote toy --here` goes on from there; `weighbridge rollback toy` goes back."
    )
    release = ended_here(settings, "release", {"line": "toy", "revision": "v2"})
    assert "steps are kept" in release.what and "`weighbridge release toy --revision v2`" in release.next_step
    assert "`weighbridge release toy --worker`" in not_followed(settings, "release", line, "release-toy").next_step
    assert "may have been started" in not_followed(settings, "promote", line, "").what


@pytest.fixture(scope="module")
def prefect(prefect_server: Settings) -> Iterator[tuple[Settings, httpx.Client, dict[str, str]]]:
    """A Prefect server with the deployment promote/toy and no worker, and the environment of commands that use it."""
    settings = prefect_server
    environment = {
        **os.environ,
        **settings.as_environment(),
        **settings.library_environment(),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with prefect_api.client(settings, timeout=60, retry_seconds=60) as api:
        flow = api.post("/flows/", json={"name": "promote"}).raise_for_status().json()["id"]
        made = {"name": "toy", "flow_id": flow, "parameters": {"line": "toy"}}
        api.post("/deployments/", json=made).raise_for_status()
        split(settings)
        yield settings, api, environment


def started(program: str, environment: dict[str, str], until: str) -> subprocess.Popen[str]:
    """Start a command in a session of its own, as in a terminal, and wait for a line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    for line in process.stdout:
        if until in line:
            return process
    process.kill()
    raise AssertionError(f"{until!r} was not printed: {process.communicate()}")


def runs(api: httpx.Client) -> list[dict[str, Any]]:
    asked = {"flows": {"name": {"any_": ["promote"]}}, "sort": "START_TIME_DESC"}
    found: list[dict[str, Any]] = api.post("/flow_runs/filter", json=asked).raise_for_status().json()
    return found


@pytest.mark.server
@pytest.mark.timeout(600)
def test_a_run_at_the_worker_goes_on_when_its_terminal_closes_and_after_ctrl_c(
    prefect: tuple[Settings, httpx.Client, dict[str, str]],
) -> None:
    _, api, environment = prefect
    process = started(FOLLOWER, environment, "is scheduled at the worker")
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == -signal.SIGHUP
    [run] = runs(api)
    assert run["state"]["type"] == "SCHEDULED", "it waits for the worker as before"
    # Typed again, the same run is followed.
    process = started(FOLLOWER, environment, f"{run['name']} is under way")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in error
    assert f"{run['name']} goes on at the worker" in error
    assert "version 2 has 25 %" in error and "weighbridge rollback toy" in error
    assert [run["state"]["type"] for run in runs(api)] == ["SCHEDULED"]
    api.delete(f"/flow_runs/{run['id']}").raise_for_status()


@pytest.mark.server
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM], ids=lambda number: number.name)
def test_a_flow_in_this_process_ends_in_order_and_says_what_it_left(
    prefect: tuple[Settings, httpx.Client, dict[str, str]], number: signal.Signals
) -> None:
    _, api, environment = prefect
    process = started(HERE, environment, "moving")
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "put in order" in out
    assert "nobody watches it now" in error and "version 2 has 25 %" in error
    assert "weighbridge promote toy --here" in error and "weighbridge rollback toy" in error
    assert "Traceback" not in error
    states = wait_for(lambda: [run["state"]["type"] for run in runs(api)], seconds=20)
    assert states and set(states) == {"CRASHED"}
