"""What a folder and a bucket share: neither has commits, so the digest of the files is the commit.

The commit is the digest that the store gives to the files as they are (`registry.store.digest_of`): SHA-256 over the
JSON list of path, SHA-256 and size of each file that serving needs, sorted by path. Equal files are one commit wherever
they lie, whatever their times, owners and order; a file that is not adopted does not count.

Hashes are remembered in `<home>/sources/` by each file's stamp, so that nothing is read twice. A stamp proves nothing:
every byte is hashed again where it is copied, and one that differs is `SourceChanged`.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from threading import Event, Lock
from typing import NamedTuple
from urllib.parse import quote

from registry.store import FileEntry, digest_of
from registry.store.tree import is_safe_path
from tasks.source.licence_texts import licence_of_file
from tasks.source.licences import licence_flaws, licence_of
from tasks.source.pinned import Source, needed_files
from tasks.source.providers._hashes import KnownHashes, Stamp
from tasks.source.receive import Partial, Stopped
from tasks.source.small_files import CONFIG, SmallFiles, read_small_files
from tasks.source.source_file import SourceFile
from tasks.source.successors import ListedCommit, SourceListing
from weighbridge.errors import SourceChanged, SourceRefused, SourceUnknown, WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import Settings
from weighbridge.units import GIB

Progress = Callable[[int, int], None]

READERS = 4
"""Files that are hashed at once; hashlib releases the interpreter lock meanwhile."""
MAX_FILES = 50_000
"""Names in a folder or below a prefix, as in the Hub's answer."""
NEWEST = ("", "main")
"""Revisions that mean the present content; `main` is the default of a line."""
_DIGITS = re.compile(r"[0-9a-f]{7,64}")
_LICENCE_FILE = re.compile(r"LICEN[CS]E(\.(txt|md))?", re.IGNORECASE)
MAX_LICENCE_BYTES = 2**17


class Listed(NamedTuple):
    """A file as the source lists it."""

    size_bytes: int
    stamp: Stamp


class Listing(NamedTuple):
    """Everything at a source."""

    files: Mapping[str, Listed]
    others: tuple[str, ...] = ()
    """Names that are never read: folders below it, hidden files."""
    flaws: tuple[str, ...] = ()
    """Why nothing of it is adopted, a phrase each."""


class ByContent(ABC):
    """A source whose commit is the digest of its files.

    Args:
        settings: Of the installation.
        repo: The source's address.
    """

    def __init__(self, settings: Settings, repo: str) -> None:
        self._repo = repo
        self._known = KnownHashes(settings.home, repo)

    @property
    def where(self) -> str:
        """Address of the source."""
        return self._repo

    @property
    def manifest_fields(self) -> Mapping[str, object]:
        """The source that the files came from."""
        return {"source": self._repo}

    @property
    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that fetch from it."""

    @abstractmethod
    def contents(self) -> Listing:
        """List everything at the source, reading no file.

        Raises:
            SourceUnknown, SourceUnreachable: It cannot be listed.
        """

    @abstractmethod
    def blocks(self, path: str, first_byte: int, limit_bytes: int) -> Iterator[bytes]:
        """Read a file from a byte on, at most so many bytes; a file that is shorter ends earlier.

        Raises:
            SourceChanged: It is gone, or is no regular file any more.
            SourceUnreachable: It cannot be read.
        """

    def pin(
        self, revision: str | None = None, max_gib: float | None = None, progress: Progress | None = None
    ) -> Source:
        """Hash the files that serving needs, those that changed since they were hashed last, and name their commit.

        Raises:
            SourceUnknown: There is no model, or the revision is not its present content.
            SourceUnreachable: It cannot be read.
            SourceChanged: A file changed while it was read.
            SourceRefused: It is larger than `max_gib`.
        """
        listing = self._model_listing()
        needed = {path: listing.files[path] for path in sorted(needed_files(listing.files))}
        size = sum(listed.size_bytes for listed in needed.values())
        if max_gib is not None and size > max_gib * GIB:
            raise SourceRefused(
                f"{self._repo} is refused: {size / GIB:.2f} GiB to copy exceed the allowed {max_gib:g} GiB.",
                "Choose another release, or change `admission.max_download_gib` in the line's file.",
                where=self._repo,
            )
        files = self._hashed(needed, progress)
        commit = digest_of(
            tuple(FileEntry(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256 or "") for file in files)
        )
        if revision and revision not in NEWEST and not (_DIGITS.fullmatch(revision) and commit.startswith(revision)):
            raise SourceUnknown(
                f"{self._repo} has no revision {revision[:80]!r}: it holds {commit[:12]} now, and nothing else.",
                "Leave `revision` away, or bring the earlier files back.",
                where=self._repo,
            )
        return self._source(commit, files, listing)

    def outline(self, revision: str | None = None) -> Source:
        """Describe the present content by its small files and sizes; a revision needs its hashes."""
        if revision and revision not in NEWEST:
            return self.pin(revision)
        listing = self._model_listing()
        needed = sorted(needed_files(listing.files))
        files = tuple(SourceFile(path=path, size_bytes=listing.files[path].size_bytes) for path in needed)
        return self._source("", files, listing)

    def listing(self, line: Line) -> SourceListing:
        """Name the present content; only the Hub has successors."""
        source = self.pin(line.revision, line.admission.max_download_gib)
        head = ListedCommit(
            kind="commit", repo=source.repo, commit=source.commit, created_at=datetime.now(UTC), gated=False
        )
        return SourceListing(head=head)

    def read(self, source: Source, file: SourceFile, limit_bytes: int, first_byte: int | None = None) -> bytes:
        """Read a part of a file, or the file up to a limit."""
        with closing(self.blocks(file.path, first_byte or 0, limit_bytes)) as blocks:  # type: ignore[type-var]
            return b"".join(blocks)

    def read_verified(self, source: Source, file: SourceFile) -> bytes:
        """Read a small file, checked against its hash."""
        # One byte more than announced, so that a longer file does not match.
        content = self.read(source, file, file.size_bytes + 1)
        if len(content) != file.size_bytes or (file.sha256 and hashlib.sha256(content).hexdigest() != file.sha256):
            raise self.differs(source, file, "its bytes are others than before")
        return content

    def receive(
        self, source: Source, file: SourceFile, partial: Partial, arrived: Callable[[int], None], stopped: Event
    ) -> str:
        """Copy the missing bytes of a file, hashed as they are written."""
        missing = file.size_bytes - partial.size_bytes
        if missing >= 0:
            # One byte more than announced, so that a file that grew is noticed.
            with closing(self.blocks(file.path, partial.size_bytes, missing + 1)) as blocks:  # type: ignore[type-var]
                for block in blocks:
                    if stopped.is_set():
                        raise Stopped
                    if partial.size_bytes + len(block) > file.size_bytes:
                        return f"it has more than {file.size_bytes} bytes"
                    partial.append(block)
                    arrived(len(block))
        return partial.problem()

    def differs(self, source: Source, file: SourceFile, problem: str) -> WeighbridgeError:
        """Return the error for a file that is not what was pinned, and forget its hash."""
        self._known.forget(file.path)
        return self.changed(file.path, problem)

    def changed(self, path: str, how: str) -> SourceChanged:
        """Return the error for a file that changed while it was read."""
        return SourceChanged(
            f"{path} of {self._repo} changed while it was read: {how}.",
            "Wait until whatever writes there has finished, then run the command again.",
            where=self._repo,
        )

    def digest_of(self, source: Source) -> dict[str, str]:
        """Return the commit, which is the digest of the files."""
        return {"sha256": source.commit}

    def _model_listing(self) -> Listing:
        listing = _safely_named(self.contents())
        if CONFIG not in listing.files and not any(path.endswith(".safetensors") for path in listing.files):
            inside = [name.rstrip("/") for name in listing.others if name.endswith("/") and self.holds_model(name)]
            hint = f"Name {self._repo}/{quote(inside[0])}." if inside else "Name the place of the model itself."
            raise SourceUnknown(f"{self._repo} holds no model: it has no {CONFIG}.", hint, where=self._repo)
        return listing

    def too_many(self) -> SourceUnknown:
        """Return the error for more names than any model has."""
        what = f"{self._repo} holds more than {MAX_FILES:,} names, so it is no model."
        return SourceUnknown(what, "Name the place of the model itself.", where=self._repo)

    def holds_model(self, name: str) -> bool:
        """Whether a folder below this one holds a model, to suggest it."""
        return False

    def _hashed(self, needed: Mapping[str, Listed], progress: Progress | None) -> tuple[SourceFile, ...]:
        """Hash the files, those whose stamp is known excepted."""
        known = {path: self._known.find(path, listed.stamp) for path, listed in needed.items()}
        unread = [path for path, sha256 in known.items() if sha256 is None]
        total, done, lock = sum(needed[path].size_bytes for path in unread), 0, Lock()

        def arrived(count: int) -> None:
            nonlocal done
            with lock:
                done += count
                if progress:
                    progress(done, total)

        began = datetime.now(UTC)
        with ThreadPoolExecutor(READERS, thread_name_prefix="hash") as pool:
            found = dict(
                zip(unread, pool.map(lambda path: self._hash(path, needed[path], arrived), unread), strict=True)
            )
        if found:
            after = self.contents().files
            for path in unread:
                if path not in after or after[path].stamp != needed[path].stamp:
                    raise self.changed(path, "it was written meanwhile")
            self._known.remember({path: (needed[path].stamp, sha256) for path, sha256 in found.items()}, began, needed)
        return tuple(
            SourceFile(path=path, size_bytes=listed.size_bytes, sha256=known[path] or found[path])
            for path, listed in needed.items()
        )

    def _hash(self, path: str, listed: Listed, arrived: Callable[[int], None]) -> str:
        digest, size = hashlib.sha256(), 0
        for block in self.blocks(path, 0, listed.size_bytes + 1):
            digest.update(block)
            size += len(block)
            arrived(len(block))
        if size != listed.size_bytes:
            raise self.changed(path, f"it has {size} bytes instead of {listed.size_bytes}")
        return digest.hexdigest()

    def _source(self, commit: str, files: tuple[SourceFile, ...], listing: Listing) -> Source:
        adopted, others = {file.path for file in files}, {name.rstrip("/") for name in listing.others}
        source = Source(
            repo=self._repo, commit=commit, licence=None, gated=False, config={}, files=files,
            ignored=tuple(sorted(({*listing.files} - adopted) | others)),
        )  # fmt: skip
        small = read_small_files(source.short, files, lambda file: self.read_verified(source, file))
        licence, flaws = self._licence(source, small)
        return source.model_copy(
            update={"licence": licence, "config": small.config, "flaws": (*listing.flaws, *small.flaws, *flaws)}
        )

    def _licence(self, source: Source, small: SmallFiles) -> tuple[str | None, tuple[str, ...]]:
        """The card's licence; without one, that of a licence file whose text is a known one."""
        of_card, flaws = licence_of(small.card), tuple(licence_flaws(small.card, None, None))
        files = [file for file in source.files if _LICENCE_FILE.fullmatch(file.path)]
        texts = [file for file in files if file.size_bytes <= MAX_LICENCE_BYTES]
        named = {name for file in texts if (name := licence_of_file(self.read_verified(source, file)))}
        if of_card is None:
            return (named.pop() if len(named) == 1 else None), flaws
        if named and of_card.casefold() not in {name.casefold() for name in named}:
            flaws += (f"its card says licence {of_card!r}, and its licence file is that of {', '.join(sorted(named))}",)
        return of_card, flaws


def _safely_named(listing: Listing) -> Listing:
    """Set names aside that a terminal may obey, that are no text, or that lead elsewhere; each is a flaw."""
    unsafe = [path for path in listing.files if not is_safe_path(path)]
    flaws = [f"the file name {ascii(path)[:200]} has characters that no file of a model has" for path in unsafe]
    return Listing(
        {path: listed for path, listed in listing.files.items() if path not in unsafe},
        (*listing.others, *(ascii(path) for path in unsafe)),
        (*listing.flaws, *flaws),
    )
