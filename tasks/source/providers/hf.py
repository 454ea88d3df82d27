"""`hf://org/model`: a repository of the Hub, or of whatever answers at HF_ENDPOINT (a mirror, a stand-in)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from threading import Event

from tasks.source import answers
from tasks.source.client import Hub
from tasks.source.hub import pin_repository
from tasks.source.pinned import Source
from tasks.source.receive import Partial, receive
from tasks.source.small_files import fetch_verified
from tasks.source.source_file import SourceFile
from tasks.source.successors import SourceListing, list_sources
from weighbridge.errors import SourceDamaged, WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import Settings

_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)")
_WITH_REVISION = re.compile(r"(?P<url>hf://[\w.-]+/[\w.-]+)@(?P<revision>.+)")


def canonical(url: str) -> str:
    """Return the one form of an address.

    Raises:
        ValueError: It is no repository's.
    """
    if match := _WITH_REVISION.fullmatch(url):
        raise ValueError(f"must read {match['url']}, and the branch or tag stands beside it: `revision: {match[2]}`")
    if not _ADDRESS.fullmatch(url):
        raise ValueError("must read hf://org/model")
    return url


class Provider:
    """A repository of the Hub.

    Args:
        settings: Name the Hub.
        repo: `org/model`.
    """

    def __init__(self, settings: Settings, repo: str) -> None:
        self._hub, self._repo = Hub.of(settings), repo

    @property
    def where(self) -> str:
        """Address of the Hub."""
        return self._hub.endpoint

    @property
    def manifest_fields(self) -> Mapping[str, object]:
        """The Hub that the files came from."""
        return {"hub": self._hub.endpoint}

    @property
    def versions(self) -> Mapping[str, str]:
        """Version of the Hub's client."""
        return {"huggingface_hub": version("huggingface_hub")}

    def pin(
        self,
        revision: str | None = None,
        max_gib: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Source:
        """Resolve a branch, tag or commit; the Hub names sizes and hashes, so `admit` alone judges the size."""
        return pin_repository(self._hub, self._repo, revision or "main")

    def outline(self, revision: str | None = None) -> Source:
        """Describe a release; on the Hub that is pinning it."""
        return self.pin(revision)

    def listing(self, line: Line) -> SourceListing:
        """List the head of the line's branch, and its successors."""
        return list_sources(self._hub, line)

    def read(self, source: Source, file: SourceFile, limit_bytes: int, first_byte: int | None = None) -> bytes:
        """Read a part of a file by a ranged request, or the file up to a limit."""
        return answers.read_file(self._hub, source.repo, source.commit, file.path, limit_bytes, first_byte=first_byte)

    def read_verified(self, source: Source, file: SourceFile) -> bytes:
        """Read a small file, checked against its hash."""
        return fetch_verified(self._hub, source.repo, source.commit, file)

    def receive(
        self, source: Source, file: SourceFile, partial: Partial, arrived: Callable[[int], None], stopped: Event
    ) -> str:
        """Fetch the missing bytes of a file over HTTP."""
        return receive(self._hub, source, file, partial, arrived, stopped)

    def differs(self, source: Source, file: SourceFile, problem: str) -> WeighbridgeError:
        """Return the error for a file that twice was not what the Hub announced."""
        return SourceDamaged(
            f"{file.path} of {source.short} arrived twice and not as the Hub describes it: {problem}.",
            "Try again later or through another network; if the error persists, tell the repository's publisher.",
            where=self._hub.endpoint,
        )

    def digest_of(self, source: Source) -> dict[str, str]:
        """Return the commit, which is git's."""
        return {"gitCommit": source.commit}
