"""Weighbridge's download against huggingface_hub's, and the cost of ten kills: docs/evidence/download.md.

Run `python -m benchmarks.download` (`--gib 1.2 --rounds 5` by default): some minutes, and four times the repository's
size of disk under $TMPDIR. The Hub is a stand-in on loopback, so only this machine is measured. The clients run
alternately in separate processes, and both import their libraries before the clock starts. The other client is
`snapshot_download` over plain HTTP into a cache; it verifies no hashes.
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
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from examples import tiny
from examples.faults import FOR_EVER, Fault, Faults
from examples.hub import publish, serving

REPO = "bench/model"
SHARDS = 5
KILLS = 10
NETWORK_BYTES_PER_SECOND = 1e7
"""Limit of each connection in the kill test; at loopback speed, sent bytes would still be in the kernel's buffers."""
WEIGHBRIDGE = """
import json, resource, sys, time
import model_signing.signing, huggingface_hub.file_download
from huggingface_hub import HfApi, hf_hub_url
from cryptography.hazmat.primitives.asymmetric import ec
from registry.installation import Installation
from tasks.source.download import download
from tasks.source.provider import provider_of
before, began = time.process_time(), time.monotonic()
installation = Installation.load()
provider = provider_of(installation.settings, "bench/model")
download(provider, provider.pin(), "bench", installation.store)
seconds = time.monotonic() - began
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([seconds, used.ru_utime + used.ru_stime - before, used.ru_maxrss / 1024]))
"""
SNAPSHOT_DOWNLOAD = """
import json, os, resource, sys, time
from huggingface_hub import snapshot_download
before, began = time.process_time(), time.monotonic()
snapshot_download("bench/model", cache_dir=os.environ["WEIGHBRIDGE_HOME"])
seconds = time.monotonic() - began
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([seconds, used.ru_utime + used.ru_stime - before, used.ru_maxrss / 1024]))
"""


class Run(BaseModel):
    """One download by one client."""

    seconds: float
    cpu_seconds: float
    peak_rss_mib: float
    disk_bytes: int
    """Peak size of its folder."""
    fetched_bytes: int


def main() -> None:
    """Measure, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.2, help="size of the repository")
    parser.add_argument("--rounds", type=int, default=5, help="downloads by each client")
    parser.add_argument("--seed", type=int, default=0, help="of the points at which processes are killed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weighbridge-download-") as name:
        folder, faults = Path(name), Faults()
        publish(folder / "hub", REPO, build(folder / "release", options.gib))
        size = sum(path.stat().st_size for path in (folder / "release").iterdir())
        shutil.rmtree(folder / "release")
        with serving(folder / "hub", faults) as endpoint:
            pairs = []
            for _ in range(options.rounds):
                weighbridge = measure(WEIGHBRIDGE, folder / "home", endpoint, faults)
                snapshot = measure(SNAPSHOT_DOWNLOAD, folder / "home", endpoint, faults)
                pairs.append((weighbridge, snapshot))
            print_rounds(pairs, size)
            fetched, points = kill_and_resume(folder / "home", endpoint, faults, size, random.Random(options.seed))
    print(f"\nkill -9 after {', '.join(f'{point / 1e6:.0f}' for point in points)} MB had been sent, and once more to")
    print(f"the end: {fetched / 1e6:.1f} MB sent for a repository of {size / 1e6:.1f} MB, {fetched / size:.4f} ×.")


def build(folder: Path, gib: float) -> Path:
    """Write a release of a given size with random weights."""
    tiny.build(folder, shards=SHARDS)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    elements = int(gib * 2**30 / SHARDS / 2)
    for number, name in enumerate(sorted(set(index["weight_map"].values()))):
        tensor = f"model.layers.{number}.mlp.up_proj.weight"
        header = json.dumps({tensor: {"dtype": "BF16", "shape": [elements], "data_offsets": [0, 2 * elements]}})
        with (folder / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header.encode())
            left = 2 * elements
            while left:
                left -= file.write(os.urandom(min(left, 2**24)))
        index["weight_map"] = {key: file for key, file in index["weight_map"].items() if file != name} | {tensor: name}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def environment(home: Path, endpoint: str) -> dict[str, str]:
    """Environment of a client's process."""
    return {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "WEIGHBRIDGE_HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def measure(code: str, home: Path, endpoint: str, faults: Faults) -> Run:
    """Measure one download into an empty folder."""
    faults.served.clear()
    home.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(home, endpoint), stdout=subprocess.PIPE, text=True
    )
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], size_on_disk(home))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        output, _ = process.communicate()
    finally:
        ended.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"a client ended with {process.returncode}")
    seconds, cpu_seconds, peak_rss_mib = json.loads(output)
    disk_bytes = max(peak[0], size_on_disk(home))
    shutil.rmtree(home)
    return Run(
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        peak_rss_mib=peak_rss_mib,
        disk_bytes=disk_bytes,
        fetched_bytes=faults.sent_bytes(),
    )


def size_on_disk(folder: Path) -> int:
    """Disk space of a folder's files; hard links count once."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = Path(place, name).lstat()
            except FileNotFoundError:  # renamed meanwhile
                continue
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def kill_and_resume(
    home: Path, endpoint: str, faults: Faults, size: int, numbers: random.Random
) -> tuple[int, list[float]]:
    """Kill Weighbridge's client ten times, each after a random number of sent bytes, then let it finish."""
    faults.served.clear()
    faults.add(Fault("/cdn/*", bytes_per_second=NETWORK_BYTES_PER_SECOND, times=FOR_EVER))
    points = sorted(numbers.uniform(0, size) for _ in range(KILLS))
    command = [sys.executable, "-c", WEIGHBRIDGE]
    for point in points:
        process = subprocess.Popen(command, env=environment(home, endpoint), stdout=subprocess.DEVNULL)
        while faults.sent_bytes() < point and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.wait()
    subprocess.run(command, env=environment(home, endpoint), stdout=subprocess.DEVNULL, check=True)
    return faults.sent_bytes(), points


def print_rounds(pairs: list[tuple[Run, Run]], size: int) -> None:
    """Print the table of both clients, with their ratios per round."""
    print(f"{size / 1e9:.2f} GB in {SHARDS} shards, {len(pairs)} rounds, turn by turn, min / median / max\n")
    print("| | Weighbridge, verified | snapshot_download | ratio |\n| --- | --- | --- | --- |")
    rows: list[tuple[str, Callable[[Run], float], str]] = [
        ("seconds", lambda run: run.seconds, ".2f"),
        ("CPU seconds of the client", lambda run: run.cpu_seconds, ".2f"),
        ("peak RSS, MiB", lambda run: run.peak_rss_mib, ".0f"),
        ("disk / repository", lambda run: run.disk_bytes / size, ".3f"),
        ("fetched / repository", lambda run: run.fetched_bytes / size, ".4f"),
    ]
    for name, read, form in rows:
        weighbridge = [read(run) for run, _ in pairs]
        snapshot = [read(run) for _, run in pairs]
        ratios = [read(first) / read(second) for first, second in pairs]
        print(f"| {name} | {spread(weighbridge, form)} | {spread(snapshot, form)} | {spread(ratios, '.2f')} |")


def spread(values: list[float], form: str) -> str:
    """Minimum, median and maximum."""
    return " / ".join(f"{value:{form}}" for value in (min(values), statistics.median(values), max(values)))


if __name__ == "__main__":
    main()
