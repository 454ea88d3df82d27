"""kill -9 at ten random points of a download of several shards, then a run to the end: little is fetched twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from examples import tiny
from examples.faults import FOR_EVER, Fault, Faults
from registry.store import Store
from tasks.source.download import download
from tasks.source.pinned import Source
from tasks.source.provider import pin, provider_of
from weighbridge.line import Line
from weighbridge.settings import load_settings

KILLS = 10
LIMIT = 1.1
UNWRITTEN_BYTES = 32 * 1024
"""The stand-in sends this much ahead of what the client has written."""


def child(environment: dict[str, str], source: Source, folder: Path) -> None:
    os.environ.update(environment)
    download(provider_of(load_settings(), source.repo), source, "tiny", Store(folder))


class Transfer:
    """The bytes sent to one process that it has not written to the disk."""

    def __init__(self, faults: Faults, store: Store) -> None:
        self._faults, self._store = faults, store
        self.begin()

    def begin(self) -> None:
        """Count from now, for a new process."""
        self._earlier_requests, self._earlier_bytes = len(self._faults.served), self._written_bytes()

    def is_ahead(self) -> bool:
        sent_bytes = sum(request.sent_bytes for request in self._faults.served[self._earlier_requests :])
        return sent_bytes - (self._written_bytes() - self._earlier_bytes) >= UNWRITTEN_BYTES

    def _written_bytes(self) -> int:
        sizes = 0
        for path in self._store.folder.rglob("*"):
            with suppress(FileNotFoundError):  # renamed meanwhile
                sizes += path.stat().st_size if path.is_file() else 0
        return sizes


def test_ten_kills_cost_less_than_a_tenth_of_the_release(hub: Any, tmp_path: Path, line: Line, store: Store) -> None:
    hub.publish(tiny.build(tmp_path / "big", shards=4, intermediate_size=4096, num_hidden_layers=5))
    source = pin(hub.installation, line)
    hub.faults.served.clear()
    # The stand-in waits for the client to write. A client on a busy core would leave megabytes in the kernel's buffers,
    # which count as sent.
    transfer = Transfer(hub.faults, store)
    hub.faults.add(Fault("/cdn/*", bytes_per_second=1.5e6, paused_while=transfer.is_ahead, times=FOR_EVER))
    # Forked from a clean process that has imported everything: a start costs a moment instead of seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["huggingface_hub.file_download", "tasks.source.download"])
    environment = {name: os.environ[name] for name in ("HF_ENDPOINT", "WEIGHBRIDGE_HOME")}
    numbers = random.Random(20)
    for point in sorted(numbers.uniform(0.02, 0.98) * source.size_bytes for _ in range(KILLS)):
        process = context.Process(target=child, args=(environment, source, store.folder))
        transfer.begin()
        process.start()
        while hub.faults.sent_bytes() < point and process.is_alive():
            time.sleep(0.005)
        assert process.is_alive(), "it ended before it was killed"
        process.kill()
        process.join()
        assert store.listed() == []
    transfer.begin()
    store.verify(download(hub.provider, source, "tiny", store))
    assert source.size_bytes <= hub.faults.sent_bytes() <= LIMIT * source.size_bytes
