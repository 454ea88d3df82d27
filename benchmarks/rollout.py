"""Promotions and rollbacks under streaming clients, and what the gateway adds: the tables of docs/evidence/rollout.md.

Run `python -m benchmarks.rollout GGUF_FOLDER GGUF_FOLDER` with two artifacts of llama.cpp's, as `weighbridge
quantize MODEL --scheme q8-0 --out FOLDER` makes them. It starts supervisord, Envoy and both engines in a home of its
own and on ports of its own. Traffic goes up by the function that the flow calls, and back by the command itself,
run in a shell. MLflow and Prefect do not run, so this also shows that a rollback needs neither: the command
moves traffic, records the rollback for the next flow, and reports that they are down.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from examples.load import Load
from registry.audit import AuditLog
from registry.store import Artifact, Store
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.program import Program
from tasks.serve.fleet.protocol import RunningEngine
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway, access_log
from tasks.serve.rollout import rollback
from tasks.serve.rollout.canary import roll_out
from tasks.serve.rollout.lock import TrafficLock
from tasks.serve.standing import ADMIT
from weighbridge.line import Line
from weighbridge.settings import Settings, load_settings

LINE = "smollm2"
"""A line of the project, so that the command knows it; engine and rollout are this benchmark's."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifacts", type=Path, nargs=2, metavar="GGUF_FOLDER")
    parser.add_argument("--rounds", type=int, default=20, help="each is a promotion and a rollback")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=200, help="requests directly and through the gateway, each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weighbridge-rollout-") as home:
        first = random.randrange(30000, 40000, 100)
        names = ("ENGINE_PORT_FIRST", "GATEWAY_PORT", "GATEWAY_ADMIN_PORT", "MLFLOW_PORT", "PREFECT_PORT")
        os.environ.update({f"WEIGHBRIDGE_{name}": str(first + 20 * number) for number, name in enumerate(names)})
        os.environ["WEIGHBRIDGE_HOME"] = home
        settings = load_settings()
        with _stack(settings) as gateway:
            measure(settings, gateway, options)


def measure(settings: Settings, gateway: Gateway, options: argparse.Namespace) -> None:
    """Run the rounds, then the pairs, and print both."""
    line, fleet = _line(options.clients), fleet_of(settings)
    engines = [
        fleet.ensure(line, _adopt(settings, folder, number)) for number, folder in enumerate(options.artifacts, start=1)
    ]
    for number, engine in enumerate(engines, start=1):
        AuditLog.of(settings).append(ADMIT, LINE, number, what=engine.artifact.digest)
    with TrafficLock(settings, LINE).acquire(1) as lock:
        roll_out(line, "1", engines[0], gateway, lock)
    rows = []
    with Load(f"{settings.gateway_url}/v1", gateway.key(), LINE, clients=options.clients) as load:
        while len(load.by_version) < 1:
            time.sleep(0.1)
        for number in range(1, options.rounds + 1):
            rows.append(_round(settings, gateway, line, engines[1], load))
            print(f"round {number}: up {rows[-1][0]:.1f} s, command to last request {rows[-1][1]:.2f} s", flush=True)
    up, last, said = (sorted(column) for column in zip(*rows, strict=True))
    print(
        f"\n{options.rounds} promotions and {options.rounds} rollbacks under {options.clients} streaming clients: "
        f"{len(load.answers)} requests, {len(load.failed)} failed or cut; by version {load.by_version}\n\n"
        "| seconds | median | largest |\n| --- | --- | --- |"
    )
    for what, values in (
        ("promotion, three steps", up),
        ("`weighbridge rollback` typed, to the last request sent that the bad version answered", last),
        ("typed, to traffic moved", said),
    ):
        print(f"| {what} | {statistics.median(values):.2f} | {values[-1]:.2f} |")
    for answer in load.failed[:5]:
        print(answer.version, answer.problem)
    print(_as_logged(settings))
    _overhead(settings, gateway, engines[0], options.pairs)
    load_average = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"\n{os.cpu_count()} cores; load of the machine at the end (1, 5, 15 min): {load_average}")


def _round(
    settings: Settings, gateway: Gateway, line: Line, engine: RunningEngine, load: Load
) -> tuple[float, float, float]:
    """Promote version 2 and roll back: seconds of the promotion, to the last request on 2, and to traffic moved."""
    began = time.time()
    with TrafficLock(settings, LINE).acquire(10) as lock:
        roll_out(line, "2", engine, gateway, lock)
    rollback.note_served(settings, LINE, 2, 1)
    up = time.time() - began
    time.sleep(1)
    typed = time.time()
    command = [sys.executable, "-m", "cli.main", "rollback", LINE, "--reason", "benchmark"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    first_words = process.stdout.readline()
    moved = time.time() - typed
    rest = process.communicate()[0]
    if "version 1 gets all new requests" not in first_words:
        raise SystemExit(f"the rollback went wrong: {first_words}{rest}")
    # Requests are noted when they end: the last start on the bad version is known once it has drained.
    gateway.wait_drained(LINE, "2", 120)
    time.sleep(0.5)
    last = load.last_start("2", typed)
    rollback.end(settings, LINE)
    rollback.note_served(settings, LINE, 1, None)
    return up, (last or typed) - typed, moved


def _as_logged(settings: Settings) -> dict[str, int]:
    """Count the failed or cut requests of the gateway's log, by version, status, flags and details."""
    time.sleep(2)
    lines = access_log(settings).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    bad = [entry for entry in entries if entry["status"] != 200 or entry["flags"]]
    return dict(
        Counter(f"version {entry['version']} {entry['status']} {entry['flags']} {entry['details']}" for entry in bad)
    )


def _overhead(settings: Settings, gateway: Gateway, engine: RunningEngine, pairs: int) -> None:
    """Time the same request directly and through the gateway, alternately, without concurrency."""
    body = {"model": LINE, "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1, "temperature": 0}
    places = {"directly": (engine.url, engine.key), "through the gateway": (settings.gateway_url, gateway.key())}
    times: dict[str, list[float]] = {place: [] for place in places}
    with httpx.Client(timeout=60, trust_env=False) as client:
        for _ in range(pairs):
            for place, (url, key) in places.items():
                headers = {"Authorization": f"Bearer {key}"}
                began = time.perf_counter()
                client.post(f"{url}/v1/chat/completions", json=body, headers=headers).raise_for_status()
                times[place].append(1000 * (time.perf_counter() - began))
    print("\n| one request at a time, one token | p50 ms | p99 ms |\n| --- | --- | --- |")
    for place, values in times.items():
        print(f"| {place} | {np.quantile(values, 0.5):.1f} | {np.quantile(values, 0.99):.1f} |")
    added = np.subtract(times["through the gateway"], times["directly"])
    print(f"\nAdded, pair by pair: median {np.median(added):.1f} ms ({pairs} pairs)")


@contextmanager
def _stack(settings: Settings) -> Iterator[Gateway]:
    """supervisord with Envoy, and nothing else."""
    supervisor, gateway = Supervisor(settings), Gateway(settings)
    gateway.bootstrap()
    supervisor.start({**settings.as_environment(), "PYTHONPATH": str(settings.root)})
    try:
        log = settings.logs_folder / "gateway.log"
        supervisor.run(Program(name="gateway", command=tuple(gateway.envoy_command()), folder=gateway.folder, log=log))
        while not gateway.health():
            time.sleep(0.1)
        yield gateway
    finally:
        supervisor.shut_down()


def _line(clients: int) -> Line:
    """A line with llama.cpp and short canary steps."""
    return Line.model_validate(
        {
            "name": LINE,
            "source": "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
            "admission": {"licences": ["apache-2.0"]},
            "schemes": ["q8-0"],
            "target": {"gpus": ["host"], "context": 512, "concurrency": clients},
            "engine": {"name": "llama-cpp", "flags": {"threads": 1}},
            "suites": [{"name": "general/choice"}],
            # Latency is not measured here, so it must not stop the rollout.
            "rollout": {
                "steps": [10, 50, 100],
                "hold_seconds": 1,
                "max_hold_seconds": 3,
                "max_latency_ratio": 10,
                "when_errors_unsure": "go_on",
            },
        }
    )


def _adopt(settings: Settings, folder: Path, number: int) -> Artifact:
    store = Store.of(settings)
    staging = store.staging(LINE, f"benchmark-{number}")
    shutil.copytree(folder, staging, dirs_exist_ok=True)
    return store.adopt(staging, line=LINE, scheme="q8-0", repo="benchmark/gguf", commit=f"{number:040x}")


if __name__ == "__main__":
    main()
