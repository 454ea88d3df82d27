"""Fetch the files of a release, several at once; each appears under its name only after it is verified."""

from __future__ import annotations

import stat
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock

from tasks.source.headers import Tensor, read_header
from tasks.source.pinned import Source
from tasks.source.provider import Provider
from tasks.source.receive import Partial, Stopped
from tasks.source.source_file import SourceFile
from weighbridge.errors import DiskFull
from weighbridge.files import is_full

Progress = Callable[[int, int], None]

PARTIAL = ".partial"
CONNECTIONS = 8
"""Files fetched at once, as in huggingface_hub's own download; hashing runs beside receiving."""


class Fetcher:
    """Fetches one release into a folder.

    Args:
        provider: of the release.
        source: the pinned release.
        folder: the destination; files of an earlier fetch are resumed.
        progress: called with (bytes done, bytes in total), one call at a time.
    """

    def __init__(self, provider: Provider, source: Source, folder: Path, progress: Progress | None) -> None:
        self._provider, self._source, self._folder, self._progress = provider, source, folder, progress
        self._lock, self._stopped = Lock(), Event()
        self._done = sum(self._bytes_on_disk(file) for file in source.files)
        self.fetched_bytes = 0
        """Bytes received over the network, discarded ones included."""
        self.sha256: dict[str, str] = {}
        """SHA-256 by path, of every verified file."""
        self.tensors: dict[str, tuple[Tensor, ...]] = {}
        """Tensors by path, of every safetensors file."""
        if progress:
            # Before the first byte, so that what an earlier fetch left is told apart.
            progress(self._done, source.size_bytes)

    @property
    def missing_bytes(self) -> int:
        """Bytes still to receive."""
        return max(0, self._source.size_bytes - self._done)

    def fetch(self, files: list[SourceFile]) -> None:
        """Fetch files, several at once; the first failure stops the others, whose bytes are kept.

        Raises:
            SourceDamaged, SourceChanged: a file twice differed from its description, or its header is wrong.
            SourceUnreachable, SourceUnknown, SourceStalled: as `Provider.receive`.
            DiskFull: the disk became full meanwhile.
        """
        self._count(0)
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="download") as pool:
            running = [pool.submit(self._fetch_one, file) for file in files]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:
                # A failure, or the user's Ctrl-C, which reaches only this thread.
                if any(not future.done() or future.exception() for future in running):
                    self._stopped.set()
                    for future in running:
                        future.cancel()
        failures = [error for future in running if not future.cancelled() and (error := future.exception())]
        for error in sorted(failures, key=lambda error: isinstance(error, Stopped)):
            raise error

    def _fetch_one(self, file: SourceFile) -> None:
        """Fetch one file; start again from byte 0 if the received or the earlier bytes are wrong."""
        whole, place = self._folder / file.path, self._folder / PARTIAL / file.path
        if whole.is_file():
            # Verified by a process that was killed later: treat it as a partial file without missing bytes.
            place.parent.mkdir(parents=True, exist_ok=True)
            whole.replace(place)
            # A store that could not sign it had made it read-only.
            place.chmod(place.stat().st_mode | stat.S_IWUSR)
        resumed = place.is_file() and place.stat().st_size > 0
        problem = ""
        # One more attempt after a resume: the earlier bytes may be damaged on the disk, not by the Hub.
        for _ in range(3 if resumed else 2):
            with Partial(place, file, self._stopped) as partial:
                problem = self._receive(file, partial)
                if not problem:
                    partial.sync()
                    self.sha256[file.path] = partial.sha256
                    break
                self._count(-partial.size_bytes)
            place.unlink()
        if problem:
            raise self._provider.differs(self._source, file, problem)
        if file.is_weights:
            self.tensors[file.path] = read_header(place)
        whole.parent.mkdir(parents=True, exist_ok=True)
        place.replace(whole)

    def _receive(self, file: SourceFile, partial: Partial) -> str:
        try:
            return self._provider.receive(self._source, file, partial, self._count, self._stopped)
        except OSError as error:
            if not is_full(error):
                raise
            raise DiskFull(
                f"The disk became full while {file.path} was received.",
                "Free some disk and run the command again; downloaded bytes are kept.",
                where=partial.folder.as_posix(),
            ) from None

    def _count(self, change: int) -> None:
        with self._lock:
            self._done += change
            self.fetched_bytes += max(change, 0)
            if self._progress:
                self._progress(self._done, self._source.size_bytes)

    def _bytes_on_disk(self, file: SourceFile) -> int:
        for path in (self._folder / file.path, self._folder / PARTIAL / file.path):
            if path.is_file():
                return path.stat().st_size
        return 0
