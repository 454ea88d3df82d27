"""How often the parity gate refuses sound engines, and whether it refuses broken ones: a table for docs/parity.md.

Run `OMP_NUM_THREADS=1 python -m benchmarks.parity [--models 10] [--starts 20] [--artifact FOLDER]`. It needs the extra
`gguf`. Without `--artifact` it makes tiny Llamas of random weights (attention and head sharpened, so that positions
matter and next tokens differ), each an artifact in Q8_0 with a reference of its own by transformers; llama.cpp's
server is really started for every gating. With `--artifact` it takes a real one, such as SmolLM2 in `q8-0`, once.

Sound engines are judged by the default limits, and by those that every other model's record would set. Each fault is
served from a damaged copy while the reference is of the good one, and judged by the default limits, the widest ones.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.parity_faults import FAULTS
from tasks.evaluate.drift.held import held_documents
from tasks.quantize.run import quantize_folder
from tasks.serve.engines import EnginePlan
from tasks.serve.engines.llama_cpp import Engine
from tasks.serve.parity.judge import DEFAULT_NATS, Group, allowed_beside, judge, noise_scale
from tasks.serve.parity.measure import Measured, measure
from tasks.serve.parity.reference_child import run
from tasks.serve.parity.reference_job import Job, Probe
from tests.support.tiny_gguf import write_telling_release
from weighbridge.errors import EngineFailed

CONTEXT, CONCURRENCY = 1024, 4
START_SECONDS = 120.0
FAULTY_FLAGS: dict[str, dict[str, Any]] = {"KV cache in 4 bits": {"cache-type-k": "q4_0", "cache-type-v": "q4_0"}}
SHORT_CONTEXT = "context of half the length"


def make_artifact(seed: int, scratch: Path) -> Path:
    """A tiny model in Q8_0."""
    release = write_telling_release(scratch / f"release-{seed}", CONTEXT, seed)
    quantize_folder(release, scratch / f"model-{seed}", "q8-0")
    return scratch / f"model-{seed}"


def probes_of(folder: Path, context: int, scratch: Path) -> tuple[Probe, ...]:
    """The artifact's reference, in this process."""
    job = Job(
        folder=folder, documents=held_documents(), context=context, device="cpu", dtype="float32", out=scratch / "made"
    )
    return run(job).probes


@contextmanager
def served(folder: Path, context: int, flags: Mapping[str, Any]) -> Iterator[tuple[str, EnginePlan]]:
    """llama.cpp's server of an artifact, as the fleet starts it."""
    plan = EnginePlan(
        engine="llama-cpp",
        engine_version=Engine().version(),
        model_name="model",
        context=context,
        concurrency=CONCURRENCY,
        flags={"threads": 1, **flags},
    )
    port = random.randrange(30000, 40000)
    spec = Engine().launch(plan, folder, "127.0.0.1", port)
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(spec.command, env={**os.environ, **spec.environment}, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _healthy(f"http://127.0.0.1:{port}/health"):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{folder} is not served")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", plan
        finally:
            server.terminate()
            server.wait(timeout=30)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def start_and_measure(
    folder: Path, probes: tuple[Probe, ...], context: int, flags: Mapping[str, Any] | None = None
) -> list[Measured]:
    """One real start and one gating of it."""
    with served(folder, context, flags or {}) as (url, plan):
        return measure(url, plan, probes)


def refused(groups: list[Group]) -> bool:
    """Whether any kind of prompt diverges."""
    return any(group.diverges for group in groups)


def fault_row(folder: Path, probes: tuple[Probe, ...], context: int, fault: str, scratch: Path) -> tuple[bool, str]:
    """Serve one fault: whether it is refused, and by what."""
    broken = Path(shutil.copytree(folder, scratch / "broken"))
    try:
        if fault in FAULTS:
            FAULTS[fault](broken / "model.gguf")
        held = context // 2 if fault == SHORT_CONTEXT else context
        groups = judge(start_and_measure(broken, probes, held, FAULTY_FLAGS.get(fault)))
    except EngineFailed as error:
        return True, error.what[:100]
    finally:
        shutil.rmtree(broken)
    return refused(groups), f"{groups[0].name} {groups[0].mean_nats:.2f} nats, ln p {groups[0].log_chance:.0f}"


def main() -> None:
    """Print the tables, a line as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=10, help="tiny models, each an artifact of its own")
    parser.add_argument("--starts", type=int, default=20, help="starts of each, sound")
    parser.add_argument("--artifact", type=Path, help="a real artifact in Q8_0 instead")
    parser.add_argument("--context", type=int, default=CONTEXT)
    given = parser.parse_args()
    began, records, broken = time.monotonic(), list[list[list[Measured]]](), dict[str, list[tuple[bool, str]]]()
    with tempfile.TemporaryDirectory(prefix="weighbridge-parity-") as name:
        scratch = Path(name)
        for seed in range(1 if given.artifact else given.models):
            folder = given.artifact or make_artifact(seed, scratch)
            probes = probes_of(folder, given.context, scratch)
            records.append([start_and_measure(folder, probes, given.context) for _ in range(given.starts)])
            for fault in (*FAULTS, *FAULTY_FLAGS, SHORT_CONTEXT):
                broken.setdefault(fault, []).append(fault_row(folder, probes, given.context, fault, scratch))
            print(f"model {seed}: {given.starts} sound starts, {time.monotonic() - began:.0f} s", file=sys.stderr)
    report(records, broken)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


def report(records: list[list[list[Measured]]], broken: Mapping[str, list[tuple[bool, str]]]) -> None:
    """Both tables."""
    starts = [one for record in records for one in record]
    default = sum(refused(judge(one)) for one in starts)
    beside = [
        refused(judge(one, allowed_beside(other[0])))
        for number, record in enumerate(records)
        for one in record
        for place, other in enumerate(records)
        if place != number
    ]
    print("| sound engines | starts | judgements | refused |\n| --- | --- | --- | --- |")
    print(f"| by the default limits | {len(starts)} | {len(starts)} | {default} |")
    print(f"| by another model's record | {len(starts)} | {len(beside)} | {sum(beside)} |")
    for gauge in DEFAULT_NATS:
        scales = [noise_scale([row.nats for row in one if row.gauge == gauge]) for one in starts]
        if any(scales):
            print(f"\nnoise scale of `{gauge}`: {np.median(scales):.3f} nats (largest of a start {max(scales):.3f})")
    print("\n| fault | starts | refused | the last one, by what |\n| --- | --- | --- | --- |")
    for fault, rows in broken.items():
        print(f"| {fault} | {len(rows)} | {sum(one for one, _ in rows)} | {rows[-1][1]} |")


if __name__ == "__main__":
    main()
