"""One file on its way from the Hub: hashed while it is written, taken up again where it stopped.

The Hub is asked through huggingface_hub's own session, headers and errors. Its download functions are not used:
`hf_hub_download` no longer resumes across processes (1.33 writes to a file of a name of its own and removes it when
it fails), and neither it nor `http_get` below it hashes what it writes, retries 5xx, or bounds the wait that a 429
asks for. Files come over plain HTTP, without Xet, whose client verifies and resumes in a cache of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from tasks.source import client
from tasks.source.hub import Source, SourceFile
from weighbridge.errors import DiskFull
from weighbridge.files import is_full
from weighbridge.settings import load_settings

if TYPE_CHECKING:
    from httpx import Response

READ_BYTES = 4 * 2**20
"""What is read at once of a partial file that is hashed again."""

WRITE_BACK_BYTES = 16 * 2**20
"""So much is handed to the disk at once, while more arrives, so that little is left to wait for in the end."""


class Stopped(Exception):
    """Another file's failure, or the user, ended this one; no failure of its own."""


class Partial:
    """A file that grows, with the hashes of what is in it; a context manager that closes it.

    What lies there already is hashed again from the disk: a process that was killed took its hashes with it.

    Args:
        path: where it grows; its folder is made.
        file: what it shall become.
        stopped: ends the hashing of what lies there.
    """

    def __init__(self, path: Path, file: SourceFile, stopped: Event) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._expected = path.open("a+b", buffering=0), file
        self._clear_hashes()
        self.size_bytes = self._written_back_bytes = 0
        try:
            self._hash_what_is_there(stopped)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, block: bytes) -> None:
        """Write and hash what has come."""
        rest = memoryview(block)
        while rest:  # an almost full disk takes a part
            rest = rest[self._file.write(rest) :]
        self._update(block)
        if self.size_bytes - self._written_back_bytes >= WRITE_BACK_BYTES:
            self._write_back()

    def restart(self) -> None:
        """Throw away what is there."""
        self._file.truncate(0)
        self._clear_hashes()
        self.size_bytes = self._written_back_bytes = 0

    def sync(self) -> None:
        """Force it onto the disk."""
        os.fsync(self._file.fileno())

    def problem(self) -> str:
        """What is wrong with it, or nothing: size, and SHA-256 or git's blob id."""
        wanted = self._expected
        if self.size_bytes != wanted.size_bytes:
            return f"{self.size_bytes} bytes instead of {wanted.size_bytes}"
        if wanted.sha256:
            kind, actual, expected = "sha256", self.sha256, wanted.sha256
        else:
            kind, actual, expected = "sha1", self._git.hexdigest(), wanted.git_oid or "nothing to verify it by"
        return "" if actual == expected else f"{kind} {actual} instead of {expected}"

    @property
    def sha256(self) -> str:
        """Of what is there."""
        return self._sha256.hexdigest()

    def _write_back(self) -> None:
        """Let the disk begin with what is new, without waiting for it.

        For pages that are not written yet, Linux answers this advice by starting to write them (mm/fadvise.c).
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

    def _hash_what_is_there(self, stopped: Event) -> None:
        self._file.seek(0)
        while block := self._file.read(READ_BYTES):
            if stopped.is_set():
                raise Stopped
            self._update(block)


def receive(source: Source, file: SourceFile, partial: Partial, arrived: Callable[[int], None], stopped: Event) -> str:
    """Append what a partial file lacks.

    Args:
        arrived: told the bytes of each block; negative when what was there is thrown away.
        stopped: ends it.

    Returns:
        What is wrong with what the Hub sends, or nothing.

    Raises:
        SourceUnreachable, SourceUnknown, SourceStalled: as `client.call_hub`.
        DiskFull: the disk became full meanwhile.
        Stopped: `stopped` is set.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(source.repo, file.path, revision=source.commit, endpoint=load_settings().hf_endpoint)
    # Compressed answers have no ranges and no size of their own.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}

    def call() -> str:
        return _stream(url, headers, file, partial, arrived, stopped)

    try:
        problem = client.call_hub(call, repo=source.repo, revision=source.commit, reached=lambda: partial.size_bytes)
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFull(
            f"The disk became full while {file.path} arrived.",
            "Free some disk and run the command again; what is downloaded is kept.",
            where=load_settings().home.as_posix(),
        ) from None
    return problem or partial.problem()


def _stream(
    url: str,
    headers: dict[str, str],
    file: SourceFile,
    partial: Partial,
    arrived: Callable[[int], None],
    stopped: Event,
) -> str:
    """One connection's worth of a file."""
    import httpx
    from huggingface_hub.utils import get_session, hf_raise_for_status

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
        if answer.is_error:
            answer.read()
            hf_raise_for_status(answer)
        begin, total = _extent(answer)
        if total not in (None, file.size_bytes):
            return f"the Hub sends {total} bytes instead of {file.size_bytes}"
        if begin != partial.size_bytes:
            # Somebody between the Hub and us ignores ranges; what is not the beginning is of no use.
            if begin:
                return f"the Hub sends from byte {begin} instead of {partial.size_bytes}"
            arrived(-partial.size_bytes)
            partial.restart()
        for block in answer.iter_bytes():
            if stopped.is_set():
                raise Stopped
            if partial.size_bytes + len(block) > file.size_bytes:
                return f"the Hub sends more than {file.size_bytes} bytes"
            partial.append(block)
            arrived(len(block))
    if partial.size_bytes < file.size_bytes:
        raise httpx.RemoteProtocolError(f"the connection ended after {partial.size_bytes} bytes")
    return ""


def _extent(answer: Response) -> tuple[int, int | None]:
    """Where in its file an answer begins, and that file's size where the answer says so."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if answer.status_code == 206 and match:
        return int(match[1]), int(match[2]) if match[2].isdigit() else None
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() and "Content-Encoding" not in answer.headers else None
