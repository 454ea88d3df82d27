"""A provider: one source of a kind, found by the source's address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Event
from typing import Any, Protocol, cast

from registry.installation import Installation
from tasks.source.pinned import Source
from tasks.source.receive import Partial
from tasks.source.source_file import SourceFile
from tasks.source.successors import SourceListing
from weighbridge import plugins
from weighbridge.errors import SourceInvalid, WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import Settings
from weighbridge.source_urls import HOW_TO, HUB, PROVIDERS, checked, kind_of

Progress = Callable[[int, int], None]


class Provider(Protocol):
    """One source: it names its newest release, describes it, and hands out its bytes."""

    @property
    def where(self) -> str:
        """Address for messages."""

    def pin(
        self, revision: str | None = None, max_gib: float | None = None, progress: Progress | None = None
    ) -> Source:
        """Resolve the source to one commit, with its files, their sizes and hashes.

        Args:
            revision: By default the newest release.
            max_gib: Refuse a larger release before it is read.
            progress: Called with (bytes read, bytes in total) where the files must be read for their hashes.

        Raises:
            SourceUnknown, SourceUnreachable, SourceDamaged, SourceChanged, SourceRefused: It cannot be pinned.
        """

    def outline(self, revision: str | None = None) -> Source:
        """Describe a release without reading its weights; the commit is empty where that would need them."""

    def listing(self, line: Line) -> SourceListing:
        """List what the watch has to decide about."""

    def read(self, source: Source, file: SourceFile, limit_bytes: int, first_byte: int | None = None) -> bytes:
        """Read a part of a file, or the file up to a limit."""

    def read_verified(self, source: Source, file: SourceFile) -> bytes:
        """Read a small file, checked against its hash."""

    def receive(
        self, source: Source, file: SourceFile, partial: Partial, arrived: Callable[[int], None], stopped: Event
    ) -> str:
        """Append the missing bytes of a file; return how it differs from what was announced, or nothing."""

    def differs(self, source: Source, file: SourceFile, problem: str) -> WeighbridgeError:
        """Return the error for a file that again and again is not what was announced."""

    def digest_of(self, source: Source) -> dict[str, str]:
        """Return the commit as a digest by its algorithm, for the provenance."""

    @property
    def manifest_fields(self) -> Mapping[str, object]:
        """What the artifact's manifest records of the source."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that fetch from it."""


def provider_of(settings: Settings, repo: str) -> Provider:
    """Find the provider of a source.

    Args:
        settings: Of the installation.
        repo: As records name it: `org/model`, or an address of another kind.

    Raises:
        PluginInvalid: The file of its kind cannot be loaded.
    """
    kind: Any = plugins.load_file(PROVIDERS, kind_of(repo), "Provider", HOW_TO)
    return cast(Provider, kind(settings, repo))


def with_source(line: Line, source: str) -> Line:
    """Return a line with another source, such as a successor that the watch found.

    Whoever reaches Prefect's API can name any. A folder or bucket, which only this machine's user may read, therefore
    comes from the line's file alone.

    Raises:
        SourceInvalid: It is no address, or neither a repository of the Hub nor the line's own source.
    """
    url = checked(source)
    if url != line.source and kind_of(url) != HUB:
        raise SourceInvalid(
            f"A run cannot take {line.name} from {url}: only the line's file names a folder or bucket.",
            f"Write `source: {url}` into lines/{line.name}.yaml, then `weighbridge release {line.name}`.",
            where=url,
        )
    return line.model_copy(update={"source": url})


def pin(
    installation: Installation, line: Line, revision: str | None = None, progress: Progress | None = None
) -> Source:
    """Resolve a line's source to one commit.

    Args:
        installation: Names the Hub and other servers.
        line: Names the source and the branch to follow.
        revision: A branch, tag or commit instead of the line's.
        progress: As for `Provider.pin`.

    Raises:
        SourceUnknown, SourceUnreachable, SourceDamaged, SourceChanged, SourceRefused: As `Provider.pin`.
    """
    provider = provider_of(installation.settings, line.repo)
    return provider.pin(revision or line.revision, line.admission.max_download_gib, progress)
