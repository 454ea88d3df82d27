"""Error rates of the parity gate on real engines, undamaged and damaged: tables for docs/evidence/parity.md.

Run `python -m benchmarks.parity_starts FOLDER --engine llama-cpp --scheme q8-0 --starts 100` with a release of
SmolLM2-135M-Instruct. Every start is the fleet's own under `parity: refuse`: supervisord, warm-up, proof, gate. The
first half is judged by the default limits; the second against the noise of a production engine of the same kind, as
if an engine of the first half had been promoted. With `--faults` the release is then damaged (benchmarks/damage.py),
quantized and served in the same way, and the engine is compared with the reference of the undamaged artifact.
MLflow, Prefect and the gateway do not run. `--flag threads=1` keeps llama.cpp's threads from waiting for each other
on cores that are busy.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.damage import DAMAGES, EXCHANGED_ENTRIES, WINDOW_TOKENS, exchanged_entries
from registry.store import Artifact, Store
from tasks.quantize import quantize_folder, scheme
from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.protocol import RunningEngine
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.parity.gate import RECORD, ParityRecord
from tasks.serve.parity.judge import judge, noise_scale
from tasks.serve.parity.measure import Gauge, Measured
from tasks.serve.parity.probes import Kind
from tasks.serve.parity.reference import reference_for, reference_path
from tasks.source.gguf.reader import GGUF_FILE
from weighbridge.errors import EngineDiverges, EngineFailed
from weighbridge.line import Line
from weighbridge.settings import Settings, load_settings

LINE = "parity"
CONCURRENCY = 4
FLAG_FAULTS = {
    "llama-cpp": {
        # Its slots share the context, so each request has a quarter of it.
        f"context cut to {WINDOW_TOKENS} tokens": {"ctx-size": str(CONCURRENCY * WINDOW_TOKENS)},
        # A kernel of the wrong number format: four bits where sixteen were planned.
        "keys and values in 4 bits": {"cache-type-k": "q4_0", "cache-type-v": "q4_0"},
    }
}
"""Faults of how an engine is started."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--engine", default="llama-cpp")
    parser.add_argument("--scheme", default="q8-0", help="bf16 leaves it as published")
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--faults", nargs="?", const="", metavar="PART", help="then serve faults named so")
    parser.add_argument("--flag", action="append", default=[], metavar="NAME=VALUE", help="of the engine")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weighbridge-parity-") as home:
        os.environ["WEIGHBRIDGE_HOME"] = home
        os.environ["WEIGHBRIDGE_ENGINE_PORT_FIRST"] = str(random.randrange(20000, 30000, 100))
        settings = load_settings()
        with _supervisord(settings):
            bench = Bench(settings, options)
            bench.sound_starts()
            if options.faults is not None:
                bench.faults()


class Bench:
    """One engine with one scheme."""

    def __init__(self, settings: Settings, options: argparse.Namespace) -> None:
        self.settings, self.options = settings, options
        self.fleet = fleet_of(settings)
        self.flags = dict(flag.split("=", 1) for flag in options.flag)
        self.artifact = self.make_artifact("sound", options.release)
        self.reference = reference_for(settings, self.artifact, options.context)

    def sound_starts(self) -> None:
        """Start, judge and stop the engine `--starts` times."""
        refused, seconds, passed_starts = [], [], list[list[Measured]]()
        for number in range(self.options.starts):
            began = time.monotonic()
            engine, said = self.start(self.artifact, self.flags)
            seconds.append(time.monotonic() - began)
            if engine is None:
                refused.append(f"start {number + 1}: {said}")
                print(refused[-1], file=sys.stderr, flush=True)
                continue
            passed_starts.append(self.measured(engine))
            if number == self.options.starts // 2 - 1:
                # From here on engines are compared with production.
                self.fleet.mark_rotation(engine, serves=True)
            self.fleet.stop(engine)
            print(f"start {number + 1}: {seconds[-1]:.0f} s", file=sys.stderr, flush=True)
        print(f"\n{self.options.engine} {self.options.scheme}: {len(seconds)} starts, {len(refused)} refused")
        worst = min(judge(start)[0].log_chance for start in passed_starts)
        print(f"least likely by the default limits: ln p {worst:.1f}")
        for gauge in dict.fromkeys(measurement.gauge for measurement in passed_starts[0]):
            kinds = {measurement.kind for measurement in passed_starts[0] if measurement.gauge == gauge}
            scales = [
                max(
                    noise_scale(
                        [
                            measurement.nats
                            for measurement in start
                            if (measurement.kind, measurement.gauge) == (kind, gauge)
                        ]
                    )
                    for start in passed_starts
                )
                for kind in kinds
            ]
            whole = [_noise(start, gauge) for start in passed_starts]
            print(f"| {gauge} | all kinds {min(whole):.3f} to {max(whole):.3f} | noisiest kind {max(scales):.3f} |")

    def faults(self) -> None:
        """Quantize and serve every damaged release; compare it with the reference of the undamaged artifact."""
        by_flags = FLAG_FAULTS.get(self.options.engine, {})
        for name, damage in DAMAGES.items():
            if name in by_flags or self.options.faults not in name:
                continue
            with tempfile.TemporaryDirectory(prefix="weighbridge-damaged-") as scratch:
                damaged = Path(scratch) / "release"
                # llama.cpp's converter knows tokenizers by what they make of a text, and refuses this one.
                in_file = damage is exchanged_entries and scheme(self.options.scheme).format == "gguf"
                (DAMAGES["identical copy"] if in_file else damage)(self.options.release, damaged)
                edit = exchange_in_gguf if in_file else None
                self.row(name, self.make_artifact(name, damaged, edit), self.flags)
        for name, flags in by_flags.items():
            if self.options.faults not in name:
                continue
            self.row(name, self.artifact, {**self.flags, **flags})

    def row(self, name: str, artifact: Artifact, flags: Mapping[str, str]) -> None:
        """Print whether the gate refused a fault."""
        reference = self.reference.model_copy(update={"artifact_digest": artifact.digest})
        reference_path(self.settings, artifact, self.options.context).write_text(reference.model_dump_json())
        engine, said = self.start(artifact, flags)
        if engine is not None:
            worst = judge(self.measured(engine))[0]
            said = f"passed: {worst.name} {worst.mean_nats:.2f} nats, ln p {worst.log_chance:.0f}"
            self.fleet.stop(engine)
        print(f"| {name} | {said} |", flush=True)

    def start(self, artifact: Artifact, flags: Mapping[str, str]) -> tuple[RunningEngine | None, str]:
        """Start an engine as a promotion does; None and the reason if it is refused."""
        try:
            return self.fleet.ensure(self.line(flags), artifact), ""
        except (EngineDiverges, EngineFailed) as error:
            return None, f"{type(error).__name__}: {error.what[:400]}"

    def measured(self, engine: RunningEngine) -> list[Measured]:
        """Read what the gate measured of an engine that passed."""
        record = (self.settings.home / "engines" / engine.name / RECORD).read_bytes()
        return list(ParityRecord.model_validate_json(record).measured)

    def make_artifact(self, name: str, release: Path, edit: Callable[[Path], None] | None = None) -> Artifact:
        """Store an artifact of a release: quantized unless the scheme is bf16, then edited."""
        store = Store.of(self.settings)
        staging = store.staging(LINE, name.encode().hex())
        if self.options.scheme == "bf16":
            shutil.copytree(release, staging, dirs_exist_ok=True)
        else:
            out = self.settings.home / "quantized"
            quantize_folder(self.settings, release, out, self.options.scheme)
            shutil.copytree(out, staging, dirs_exist_ok=True)
            shutil.rmtree(out)
        if edit:
            edit(staging)
        return store.adopt(staging, line=LINE, scheme=self.options.scheme, repo="benchmark/parity", commit="0" * 40)

    def line(self, flags: Mapping[str, str]) -> Line:
        """A line that refuses engines that diverge."""
        return Line.model_validate(
            {
                "name": LINE,
                "source": "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
                "admission": {"licences": ["apache-2.0"]},
                "schemes": [self.options.scheme],
                "target": {"gpus": ["host"], "context": self.options.context, "concurrency": CONCURRENCY},
                "engine": {"name": self.options.engine, "flags": dict(flags), "parity": "refuse"},
                "suites": [{"name": "general/choice"}],
            }
        )


def _noise(measured: Sequence[Measured], gauge: Gauge, kind: Kind | None = None) -> float:
    return noise_scale(
        [
            measurement.nats
            for measurement in measured
            if measurement.gauge == gauge and kind in (None, measurement.kind)
        ]
    )


def exchange_in_gguf(folder: Path) -> None:
    """Exchange entries of a GGUF's vocabulary in pairs; pairs of neighbours keep the file's length."""
    path = folder / GGUF_FILE
    content = bytearray(path.read_bytes())
    key = b"tokenizer.ggml.tokens"
    # The key, then: type (an array), type of its elements (strings), their number, and each string after its length.
    at = content.index(key) + len(key) + 4 + 4 + 8
    for number in range(300 + EXCHANGED_ENTRIES):
        size = 8 + int.from_bytes(content[at : at + 8], "little")
        if number >= 300 and number % 2 == 0:
            following = 8 + int.from_bytes(content[at + size : at + size + 8], "little")
            entry, other = content[at : at + size], content[at + size : at + size + following]
            content[at : at + size + following] = other + entry
            size = following
        at += size
    path.write_bytes(content)


@contextmanager
def _supervisord(settings: Settings) -> Iterator[None]:
    supervisor = Supervisor(settings)
    supervisor.start({**settings.as_environment(), "PYTHONPATH": str(settings.root)})
    try:
        yield
    finally:
        supervisor.shut_down()


if __name__ == "__main__":
    main()
