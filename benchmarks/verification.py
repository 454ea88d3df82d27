"""What verification costs: its share of a release's steps and of an engine's start (docs/evidence/verification.md).

Run `python -m benchmarks.verification FOLDER` with a release of SmolLM2-135M-Instruct (`python -m examples.smollm2
FOLDER` makes one). The release is published on a stand-in for the Hub, downloaded, quantized to INT8 and checked for
drift, in this process, with every check of the store timed. Then the store's accessor is timed by itself: the first
time in a process, and later. Engines start as the fleet starts them, but for the parity gate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.hub import publish, serving
from registry.installation import Installation
from registry.store import Artifact, Store, check, entry
from tasks.evaluate.drift import check_drift
from tasks.quantize import quantize
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.supervisor import Supervisor
from tasks.source.download import download
from tasks.source.provider import pin, provider_of
from tests.support.ports import free_port
from weighbridge.line import Line

LINE = "smollm2"


class Clock:
    """Time spent in the store's checks, by wrapping the two functions that all of them go through."""

    def __init__(self) -> None:
        self.seconds = 0.0
        entry.wrong_files = self._timed(entry.wrong_files)
        from registry.store import local

        local.entries_of = self._timed(check.entries_of)

    def _timed(self, function: Callable[..., object]) -> Callable[..., object]:
        def timed(*arguments: object, **options: object) -> object:
            began = time.monotonic()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.monotonic() - began

        return timed

    @contextmanager
    def row(self, name: str) -> Iterator[None]:
        """Print how long a step took, and the share of its checks."""
        self.seconds, began = 0.0, time.monotonic()
        yield
        total = time.monotonic() - began
        print(f"| {name} | {total:.2f} s | {self.seconds:.2f} s | {self.seconds / total:.1%} |", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engine", default="", help="also start this engine `--starts` times, such as transformers")
    parser.add_argument("--starts", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weighbridge-verification-") as scratch:
        port = free_port()
        os.environ |= {"WEIGHBRIDGE_HOME": f"{scratch}/home", "HF_ENDPOINT": f"http://127.0.0.1:{port}"}
        root = Path(scratch) / "hub"
        root.mkdir()
        publish(root, "HuggingFaceTB/SmolLM2-135M-Instruct", options.release)
        with serving(root, port=port):
            published, candidate = release_rows(Installation.load(), Clock())
        installation = Installation.load()
        for artifact in (published, candidate):
            accessor_rows(installation.store, artifact, options.rounds)
        if options.engine:
            start_rows(installation, candidate, options)


def release_rows(installation: Installation, clock: Clock) -> tuple[Artifact, Artifact]:
    """Run a release's steps that read or make artifacts, and print the share of the checks in each."""
    configured, store = line_of("transformers"), installation.store
    source = pin(installation, configured)
    print("| step | seconds | of which checks | share |\n| --- | --- | --- | --- |")
    with clock.row("download"):
        published = download(provider_of(installation.settings, source.repo), source, LINE, store)
    with clock.row("download, in the store already"):
        download(provider_of(installation.settings, source.repo), source, LINE, store)
    with clock.row("quantize to INT8"):
        candidate = quantize(installation, published, "int8")
    with clock.row("drift check"), store.reading(candidate, published) as (candidate_folder, published_folder):
        check_drift(
            candidate_folder,
            published_folder,
            bounds=configured.bounds,
            confidence=configured.confidence,
            candidate_digest=candidate.digest,
            production_digest=published.digest,
            progress=lambda done, total: None,
            home=installation.settings.home,
        )
    return published, candidate


def accessor_rows(store: Store, artifact: Artifact, rounds: int) -> None:
    """Time `Store.path` in new processes, where it hashes, and in this one, where it compares times and sizes."""
    code = (
        "import sys, time; from pathlib import Path; from registry.store import Store\n"
        f"store = Store(Path({str(store.folder)!r})); artifact = store.get({LINE!r}, {artifact.digest!r})\n"
        "for _ in range(2):\n    began = time.monotonic(); store.path(artifact); print(time.monotonic() - began)\n"
    )
    first, second = [], []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for seconds, text in zip((first, second), done.stdout.split(), strict=True):
            seconds.append(float(text))
    size = f"{artifact.scheme}, {artifact.size_bytes / 1e6:.0f} MB"
    print(
        f"\n{size}: first {_spread(first, 1)} s, {artifact.size_bytes / 1e6 / statistics.median(first):.0f} MB/s; ",
        end="",
    )
    print(f"later {_spread(second, 1000)} ms; {statistics.median(first) / statistics.median(second):.0f} × less")


def start_rows(installation: Installation, artifact: Artifact, options: argparse.Namespace) -> None:
    """Start an engine as a promotion does, and read from its log how long its launcher verified."""
    settings = installation.settings
    supervisor, fleet = Supervisor(settings), fleet_of(settings)
    supervisor.start(settings.as_environment())
    try:
        for number in range(options.starts):
            began = time.monotonic()
            engine = fleet.ensure(line_of(options.engine), artifact)
            total = time.monotonic() - began
            said = next(line for line in reversed(fleet.log_tail(engine, 400)) if " verified: " in line)
            verified = float(said.rpartition(" in ")[2].removesuffix(" s"))
            print(
                f"start {number + 1}: {total:.1f} s, verified in {verified:.2f} s, {verified / total:.1%}", flush=True
            )
            fleet.stop(engine)
    finally:
        supervisor.shut_down()


def line_of(engine: str) -> Line:
    """A line of SmolLM2 without the parity gate, which is measured elsewhere."""
    return Line.model_validate(
        {
            "name": LINE,
            "source": "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
            "admission": {"licences": ["apache-2.0"]},
            "schemes": ["int8"],
            "target": {"gpus": ["host"], "context": 1024, "concurrency": 2},
            "engine": {"name": engine, "parity": "off"},
            "suites": [{"name": "general/choice"}],
        }
    )


def _spread(seconds: list[float], factor: float) -> str:
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    return f"{low * factor:.2f} / {middle * factor:.2f} / {high * factor:.2f}"


if __name__ == "__main__":
    main()
