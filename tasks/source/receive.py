"""Receive one file from the Hub: hash it while it is written, and resume it where it stopped.

Requests use huggingface_hub's session, headers and errors, but not its download functions. `hf_hub_download` no longer
resumes across processes (1.33 writes to a file with a random name and removes it on failure). Neither it nor
`http_get` below it hashes the bytes, retries 5xx, or limits the wait that a 429 asks for. Files are fetched over plain
HTTP, not over Xet, whose client verifies and resumes in its own cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from tasks.source import client
from tasks.source.answers import raise_for_error
from tasks.source.client import Hub
from tasks.source.pinned import Source
from tasks.source.source_file import SourceFile

if TYPE_CHECKING:
    from httpx import Response

READ_BYTES = 4 * 2**20
"""Read size when a partial file is hashed again."""

WRITE_BACK_BYTES = 16 * 2**20
"""Bytes after which writing to the disk is started, so that the final sync has little left to wait for."""


class Stopped(Exception):
    """The transfer was stopped by another file's failure or by the user; not a failure of this file."""


class _Pace:
    """Notices a sender that keeps a connection open with a few bytes now and then."""

    def __init__(self) -> None:
        self._since, self._bytes = time.monotonic(), 0

    def is_too_slow(self, received: int) -> bool:
        """Count bytes; whether those of the last minutes are fewer than any line brings."""
        self._bytes += received
        seconds = time.monotonic() - self._since
        if seconds < client.PACE_SECONDS:
            return False
        slow = self._bytes < client.SLOWEST_BYTES_PER_SECOND * seconds
        self._since, self._bytes = time.monotonic(), 0
        return slow


class Partial:
    """A partly received file and the hashes of its bytes; a context manager that closes it.

    Bytes of an earlier process are hashed again from the disk, because that process's hashes are gone.

    Args:
        path: of the partial file; its folder is created.
        file: the complete file's expected size and hash.
        stopped: ends the hashing of existing bytes.
    """

    def __init__(self, path: Path, file: SourceFile, stopped: Event) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._expected = path.open("a+b", buffering=0), file
        self._clear_hashes()
        self.size_bytes = self._written_back_bytes = 0
        try:
            self._hash_existing_bytes(stopped)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, block: bytes) -> None:
        """Write and hash a received block."""
        rest = memoryview(block)
        while rest:  # an almost full disk writes a part
            rest = rest[self._file.write(rest) :]
        self._update(block)
        if self.size_bytes - self._written_back_bytes >= WRITE_BACK_BYTES:
            self._write_back()

    def restart(self) -> None:
        """Discard all bytes."""
        self._file.truncate(0)
        self._clear_hashes()
        self.size_bytes = self._written_back_bytes = 0

    def sync(self) -> None:
        """Flush the file to the disk."""
        os.fsync(self._file.fileno())

    def problem(self) -> str:
        """How size, SHA-256 or git blob id differ from the expected ones; empty if they do not."""
        expected_file = self._expected
        if self.size_bytes != expected_file.size_bytes:
            return f"{self.size_bytes} bytes instead of {expected_file.size_bytes}"
        if expected_file.sha256:
            kind, actual, expected = "sha256", self.sha256, expected_file.sha256
        else:
            kind, actual, expected = "sha1", self._git.hexdigest(), expected_file.git_oid or "nothing to verify it by"
        return "" if actual == expected else f"{kind} {actual} instead of {expected}"

    @property
    def folder(self) -> Path:
        """Folder of the partial file."""
        return Path(self._file.name).parent

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hex."""
        return self._sha256.hexdigest()

    def _write_back(self) -> None:
        """Start writing new bytes to the disk, without waiting.

        Linux starts writing dirty pages when it receives this advice (mm/fadvise.c).
        """
        begin, self._written_back_bytes = self._written_back_bytes, self.size_bytes
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), begin, self.size_bytes - begin, os.POSIX_FADV_DONTNEED)

    def _clear_hashes(self) -> None:
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % self._expected.size_bytes)

    def _update(self, block: bytes) -> None:
        self._sha256.update(block)
        if not self._expected.sha256:
            self._git.update(block)
        self.size_bytes += len(block)

    def _hash_existing_bytes(self, stopped: Event) -> None:
        self._file.seek(0)
        while block := self._file.read(READ_BYTES):
            if stopped.is_set():
                raise Stopped
            self._update(block)


def receive(
    hub: Hub, source: Source, file: SourceFile, partial: Partial, arrived: Callable[[int], None], stopped: Event
) -> str:
    """Fetch the missing bytes of a partial file.

    Args:
        hub: the Hub with the release.
        source: the pinned release.
        file: of the release.
        partial: the bytes so far; grows.
        arrived: called with the bytes of each block; negative when earlier bytes are discarded.
        stopped: ends the transfer when set.

    Returns:
        How the received file differs from the expected one; empty if it does not.

    Raises:
        SourceUnreachable, SourceUnknown, SourceStalled: as `Hub.call`.
        OSError: the disk became full during the transfer.
        Stopped: `stopped` is set.
    """
    from huggingface_hub.utils import build_hf_headers

    url = hub.file_url(source.repo, file.path, source.commit)
    # Compressed answers support no ranges and do not state the file's size.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}

    def call() -> str:
        return _stream(hub, url, headers, file, partial, arrived, stopped)

    problem = hub.call(call, repo=source.repo, revision=source.commit, received_bytes=lambda: partial.size_bytes)
    return problem or partial.problem()


def _stream(
    hub: Hub,
    url: str,
    headers: dict[str, str],
    file: SourceFile,
    partial: Partial,
    arrived: Callable[[int], None],
    stopped: Event,
) -> str:
    """Append the bytes of one connection; return what is wrong with them, or nothing."""
    import httpx
    from huggingface_hub.utils import get_session

    if partial.size_bytes > file.size_bytes:
        return partial.problem()
    if partial.size_bytes == file.size_bytes and file.size_bytes:
        return ""
    if partial.size_bytes:
        headers = {**headers, "Range": f"bytes={partial.size_bytes}-"}
    timeout = httpx.Timeout(client.TIMEOUT_SECONDS, read=client.STALL_SECONDS)
    with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as answer:
        if answer.status_code == 416:
            return f"the Hub's file ends before byte {partial.size_bytes} of {file.size_bytes}"
        raise_for_error(answer)
        begin, total = _extent(answer)
        if total not in (None, file.size_bytes):
            return f"the Hub sends {total} bytes instead of {file.size_bytes}"
        if begin != partial.size_bytes:
            # A proxy ignored the range. Bytes from the file's start can be used after a restart, others cannot.
            if begin:
                return f"the Hub sends from byte {begin} instead of {partial.size_bytes}"
            arrived(-partial.size_bytes)
            partial.restart()
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            return "the Hub sends it compressed, which was not asked for"
        pace = _Pace()
        for block in answer.iter_raw():
            if stopped.is_set():
                raise Stopped
            if pace.is_too_slow(len(block)):
                raise hub.too_slow(file.path)
            if partial.size_bytes + len(block) > file.size_bytes:
                return f"the Hub sends more than {file.size_bytes} bytes"
            partial.append(block)
            arrived(len(block))
    if partial.size_bytes < file.size_bytes:
        raise httpx.RemoteProtocolError(f"the connection ended after {partial.size_bytes} bytes")
    return ""


def _extent(answer: Response) -> tuple[int, int | None]:
    """First byte of an answer within its file, and the file's size; None if the answer does not state it."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if answer.status_code == 206 and match:
        return int(match[1]), int(match[2]) if match[2].isdigit() else None
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() and "Content-Encoding" not in answer.headers else None
