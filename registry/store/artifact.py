"""An artifact: its files, its manifest, its digest."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from weighbridge.errors import ArtifactDamaged

MODEL = "model"
MANIFEST = "manifest.json"
LINE = re.compile(r"\w[\w.-]*")
"""Allowed names of lines, because a name becomes a folder."""


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    path: str
    size_bytes: int
    sha256: str


class Artifact(BaseModel):
    """A model in the store: the thing that is weighed, approved and served."""

    model_config = ConfigDict(frozen=True)

    line: str
    digest: str
    """64 hex digits: SHA-256 of the manifest's files."""
    scheme: str
    """bf16 (as published), int8, int4, …"""
    repo: str
    commit: str
    """40 hex digits of the source."""
    size_bytes: int

    @property
    def uri(self) -> str:
        """Address of the artifact, `store://<line>/<sha256>`, as MLflow records it."""
        return f"store://{self.line}/{self.digest}"

    @property
    def short(self) -> str:
        """The digest's first 12 digits, for messages."""
        return self.digest[:12]


class Manifest(BaseModel):
    """Content of `manifest.json`: an artifact, its files, and how it was made."""

    model_config = ConfigDict(frozen=True)

    artifact: Artifact
    files: tuple[FileEntry, ...]
    facts: dict[str, object]

    def as_json(self) -> bytes:
        """Return the content of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1).encode()


def read_manifest(content: bytes, line: str, digest: str, where: str) -> Manifest:
    """Parse a manifest and check that it belongs to a digest.

    Args:
        content: The file's bytes.
        line, digest: Artifact that it must belong to.
        where: Its place, for the message.

    Raises:
        ArtifactDamaged: It cannot be read, belongs to another artifact, or has names that lead out of its folder.
    """
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError:
        raise damaged(line, digest, "its manifest cannot be read", where) from None
    named = manifest.artifact
    # It may come from a store that others can write to, and its names become paths on this disk.
    outside = [file.path for file in manifest.files if not _stays_inside(file.path)]
    if outside or not LINE.fullmatch(line):
        raise damaged(line, digest, f"its manifest names {(outside or [line])[0]!r}", where)
    if (named.line, named.digest) != (line, digest) or digest_of(manifest.files) != digest:
        raise damaged(line, digest, f"{MANIFEST} lists the files of something else", where)
    return manifest


def damaged(line: str, digest: str, why: str, where: str) -> ArtifactDamaged:
    """Make the error for an artifact whose files have changed."""
    return ArtifactDamaged(
        f"store://{line}/{digest} is no longer what was weighed: {why}.",
        f"Remove the artifact's folder and run `weighbridge release {line} --fresh`.",
        where=where,
    )


def _stays_inside(path: str) -> bool:
    """Return whether a file's path keeps it inside its artifact's folder."""
    return not {"", ".", ".."} & set(path.split("/")) and "\\" not in path and "\0" not in path


def digest_of(entries: tuple[FileEntry, ...]) -> str:
    """Compute an artifact's digest: SHA-256 over its files' paths, sizes and hashes."""
    ordered = sorted(entries, key=lambda entry: entry.path)
    listing = json.dumps([entry.model_dump() for entry in ordered], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(listing.encode()).hexdigest()


def entries_of(folder: Path, known_sha256: Mapping[str, str]) -> tuple[FileEntry, ...]:
    """List a folder's files in the order of their paths, hashed unless their hashes are known."""
    entries = []
    for path in files_of(folder):
        name = path.relative_to(folder).as_posix()
        sha256 = known_sha256.get(name) or sha256_of(path)
        entries.append(FileEntry(path=name, size_bytes=path.stat().st_size, sha256=sha256))
    return tuple(sorted(entries, key=lambda entry: entry.path))


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> Iterator[Path]:
    """Iterate over every file below a folder, in the order of their paths."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def sync(folder: Path) -> None:
    """Sync a folder and everything below it to disk."""
    for path in folder.rglob("*"):
        sync_one(path)
    sync_one(folder)


def sync_one(path: Path) -> None:
    """Sync one file, or one folder without its content, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
