"""All files of a release on their way at once, a few at a time, each visible only when it is right."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock

from tasks.source.headers import Tensor, read_header
from tasks.source.hub import Source, SourceFile
from tasks.source.receive import Partial, Stopped, receive
from weighbridge.errors import SourceDamaged
from weighbridge.settings import load_settings

Progress = Callable[[int, int], None]

PARTIAL = ".partial"
CONNECTIONS = 8
"""Files on their way at once, as many as huggingface_hub's own download has; hashing runs beside receiving."""


class Fetch:
    """The fetching of one release into a folder.

    Args:
        source: what to fetch.
        folder: where to; what an earlier fetch left there is taken up.
        progress: told (bytes done, bytes in all), one call at a time.
    """

    def __init__(self, source: Source, folder: Path, progress: Progress | None) -> None:
        self._source, self._folder, self._progress = source, folder, progress
        self._lock, self._stopped = Lock(), Event()
        self._done = sum(self._bytes_here(file) for file in source.files)
        self.fetched_bytes = 0
        """Bytes that came over the network, those that were thrown away too."""
        self.sha256: dict[str, str] = {}
        """Path → hash of every file that is right."""
        self.tensors: dict[str, tuple[Tensor, ...]] = {}
        """Path → tensors of every safetensors file."""

    @property
    def missing_bytes(self) -> int:
        """What is still to come."""
        return max(0, self._source.size_bytes - self._done)

    def bring(self, files: list[SourceFile]) -> None:
        """Fetch files, a few at once; the first failure ends the others where they are.

        Raises:
            SourceDamaged: a file arrived twice as something else than the Hub said, or its header lies.
            SourceUnreachable, SourceUnknown, SourceStalled, DiskFull: as `receive`.
        """
        self._arrived(0)
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="download") as pool:
            running = [pool.submit(self._bring_one, file) for file in files]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:
                # A failure, or the user's Ctrl-C, which reaches only this thread.
                if any(not one.done() or one.exception() for one in running):
                    self._stopped.set()
                    for one in running:
                        one.cancel()
        failures = [error for one in running if not one.cancelled() and (error := one.exception())]
        for error in sorted(failures, key=lambda error: isinstance(error, Stopped)):
            raise error

    def _bring_one(self, file: SourceFile) -> None:
        """Bring one file, again from the start if what came, or what lay here, is something else."""
        whole, place = self._folder / file.path, self._folder / PARTIAL / file.path
        if whole.is_file():
            # Verified by a process that was killed before the end: the same as a partial file that lacks nothing.
            place.parent.mkdir(parents=True, exist_ok=True)
            whole.replace(place)
        resumed = place.is_file() and place.stat().st_size > 0
        problem = ""
        # What an earlier process left may be damaged without anything having arrived so.
        for _ in range(3 if resumed else 2):
            with Partial(place, file, self._stopped) as partial:
                problem = receive(self._source, file, partial, self._arrived, self._stopped)
                if not problem:
                    partial.sync()
                    self.sha256[file.path] = partial.sha256
                    break
                self._arrived(-partial.size_bytes)
            place.unlink()
        if problem:
            raise SourceDamaged(
                f"{file.path} of {self._source.short} arrived twice as something else than the Hub says: {problem}.",
                "Try again later or through another network; if it stays so, tell the repository's publisher.",
                where=load_settings().hf_endpoint,
            )
        if file.is_weights:
            self.tensors[file.path] = read_header(place)
        whole.parent.mkdir(parents=True, exist_ok=True)
        place.replace(whole)

    def _arrived(self, change: int) -> None:
        with self._lock:
            self._done += change
            self.fetched_bytes += max(change, 0)
            if self._progress:
                self._progress(self._done, self._source.size_bytes)

    def _bytes_here(self, file: SourceFile) -> int:
        for path in (self._folder / file.path, self._folder / PARTIAL / file.path):
            if path.is_file():
                return path.stat().st_size
        return 0
