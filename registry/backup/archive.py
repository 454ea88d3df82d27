"""The archive of a backup: its listing, its members, and the one way in which they reach the disk.

Nothing is extracted by name. A member is written only if it is a regular file, the listing has it, and its name stays
inside; into a folder of ours, by us, and never through a link. Sizes, count and compression are bounded.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.backup.container import CHUNK, Archive, HashingReader, damaged
from registry.backup.production import ServedVersion, Weights
from registry.store.artifact import Artifact, files_of, sha256_of
from weighbridge.files import PRIVATE, naming_a_full_disk

LISTING = "backup.json"
MOST_MEMBERS = 1_000_000
LONGEST_LISTING = 500_000_000
"""Bytes of the listing, of which each member takes about 200."""
LONGEST_HEADER = 64 << 10
"""Bytes of a member's extended header, which holds a long name."""
ROOM, RATIO = 64 << 20, 200
"""An archive that we did not sign may hold this much, and this many times its own size: databases shrink to a tenth, a
bomb to a thousandth. One that we signed is as large as the disk allows."""
NAME = re.compile(r"[^\x00-\x1f\x7f\\]{1,1000}")


class Contents(BaseModel):
    """Contents of a backup."""

    model_config = ConfigDict(frozen=True)

    made_at: str = Field(pattern=r"^[0-9T:.+Z-]{10,40}$")
    """ISO 8601, UTC; the audit log quotes it."""
    weighbridge: str
    """Version of Weighbridge."""
    database: str
    """sqlite or postgresql."""
    mlflow_files: str
    """`in this backup`, or the address of MLflow's files."""
    audit_entries: int = Field(ge=0)
    audit_head: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hash of the audit log's last entry."""
    artifacts: tuple[Artifact, ...]
    """The store's index."""
    versions: tuple[ServedVersion, ...] = ()
    """Versions whose weights are in it; none in a backup without production."""
    weights: tuple[Weights, ...] = ()
    secrets: tuple[str, ...] = ()
    """Paths of the encrypted secrets' files, below the home."""
    secrets_sha256: str = ""
    """Hash of the encrypted secrets."""
    sha256: dict[str, str]
    """Name of every other member -> its hash."""


def pack(folder: Path, contents: Contents, target: Path) -> Contents:
    """Pack a folder.

    Args:
        folder: Its files become the members.
        contents: Contents without hashes.
        target: File to write.

    Returns:
        The contents with hashes.

    Raises:
        DiskFull: The disk is full.
    """
    names = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
    contents = contents.model_copy(update={"sha256": {name: sha256_of(path) for name, path in names.items()}})
    with naming_a_full_disk(target), tarfile.open(target, "x:gz", compresslevel=6) as archive:
        for name, path in names.items():
            with path.open("rb") as file:
                archive.addfile(_member(name, path.stat().st_size), file)
        listing = contents.model_dump_json(indent=1).encode()
        archive.addfile(_member(LISTING, len(listing)), io.BytesIO(listing))
    return contents


def unpack(archive: Archive, source: Path, folder: Path | None, see: dict[str, Callable[[bytes], object]]) -> Contents:
    """Check every member of an archive, and write them into a folder.

    Args:
        archive: The archive.
        source: The backup's file, for messages.
        folder: An empty folder of ours; None: nothing is written.
        see: For a member's name, a function that is called with each part of its content.

    Returns:
        The contents.

    Raises:
        BackupDamaged: A member is missing, altered, unlisted, no regular file, or has a name that leads elsewhere; or
            the archive is far larger than its file.
        DiskFull: The disk is full.
    """
    reader = archive.reader()
    found: dict[str, str] = {}
    listing = b""
    try:
        most = sys.maxsize if archive.signed else ROOM + RATIO * archive.size
        for name, content in _members(reader, most):
            if name in found or (name == LISTING and listing):
                raise tarfile.TarError(f"{name!r} is in it twice")
            if name == LISTING:
                listing = b"".join(content)
                if len(listing) > LONGEST_LISTING:
                    raise tarfile.TarError("its listing is too long")
                continue
            found[name] = _write(name, content, folder, see.get(name))
            if len(found) > MOST_MEMBERS:
                raise tarfile.TarError("it has too many members")
        contents = Contents.model_validate_json(listing)
    # Whatever an altered archive makes of the standard library's readers, the file is damaged.
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError, KeyError, IndexError) as error:
        raise damaged(source, _reason(error)) from error
    except gzip.BadGzipFile as error:
        raise damaged(source, _reason(error)) from error
    if reader.finish() != archive.sha256:
        raise damaged(source, "it was changed while it was read")
    different = {name for name, _ in found.items() ^ contents.sha256.items()}
    if different:
        raise damaged(source, f"{min(different)!r} is not what was written")
    return contents


def _members(reader: HashingReader, most: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    unpacked = _Bounded(cast("IO[bytes]", gzip.GzipFile(fileobj=cast(Any, reader))), most)
    with tarfile.open(fileobj=cast(Any, unpacked), mode="r|", tarinfo=_Header, errorlevel=2) as archive:
        for member in archive:
            if not member.isreg() or member.issparse():
                raise tarfile.TarError(f"{member.name!r} is no regular file")
            if not stays_inside(member.name):
                raise tarfile.TarError(f"{member.name!r} leads elsewhere")
            content = archive.extractfile(member)
            assert content is not None
            yield member.name, _parts(content)
            # tarfile keeps every member that it has seen.
            archive.members = []  # type: ignore[attr-defined]


def _parts(content: IO[bytes]) -> Iterator[bytes]:
    while data := content.read(CHUNK):
        yield data


def stays_inside(name: str) -> bool:
    """Return whether a member's name is a plain path below a folder."""
    parts = name.split("/")
    return bool(NAME.fullmatch(name)) and not {"", ".", ".."} & set(parts) and all(len(part) < 256 for part in parts)


class _Header(tarfile.TarInfo):
    """A header whose extension, which holds a long name, is not read without limit."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) and self.size > LONGEST_HEADER:
            raise tarfile.TarError("a header is too long")
        return super()._proc_member(archive)  # type: ignore[misc]


class _Bounded:
    """Reads no more than a number of bytes, and no more than a chunk at once."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._left = file, most

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, CHUNK))
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.TarError("it is far larger than its file")
        return data


def _write(name: str, content: Iterator[bytes], folder: Path | None, see: Callable[[bytes], object] | None) -> str:
    """Write a member into a folder, if there is one; return its hash."""
    sha256 = hashlib.sha256()
    descriptor = None if folder is None else _create(folder, PurePosixPath(name))
    try:
        for data in content:
            sha256.update(data)
            if see is not None:
                see(data)
            if descriptor is not None:
                with naming_a_full_disk(Path(name)):
                    _write_all(descriptor, data)
        if descriptor is not None:
            os.fsync(descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return sha256.hexdigest()


def _create(folder: Path, name: PurePosixPath) -> int:
    """Create a file below a folder of ours, one component after the other, so that no link is followed."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for part in name.parts[:-1]:
            with suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=place)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = below
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(name.name, flags, PRIVATE, dir_fd=place)
    finally:
        os.close(place)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, PRIVATE
    return member


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return f"its {LISTING} cannot be read"
    lines = str(error).splitlines()
    return f"it cannot be read: {lines[0][:200] if lines else type(error).__name__}"
