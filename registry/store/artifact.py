"""What an artifact is: its files, its manifest, its digest."""

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
"""What a line may be called, where it becomes a folder."""


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    path: str
    size_bytes: int
    sha256: str


class Artifact(BaseModel):
    """A model in the store: what serves, what is weighed, what is approved."""

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
        """`store://<line>/<sha256>`, as MLflow records it."""
        return f"store://{self.line}/{self.digest}"

    @property
    def short(self) -> str:
        """Enough of the digest for a person."""
        return self.digest[:12]


class Manifest(BaseModel):
    """`manifest.json`: an artifact, its files, and how it was made."""

    model_config = ConfigDict(frozen=True)

    artifact: Artifact
    files: tuple[FileEntry, ...]
    facts: dict[str, object]

    def as_json(self) -> bytes:
        """The file's content."""
        return json.dumps(self.model_dump(mode="json"), indent=1).encode()


def read_manifest(content: bytes, line: str, digest: str, where: str) -> Manifest:
    """A manifest's content, if it is the one of this digest.

    Raises:
        ArtifactDamaged: it is no manifest, or another artifact's.
    """
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError:
        raise damaged(line, digest, "its manifest is none", where) from None
    named = manifest.artifact
    # It may come from a store that others write to: its names become paths on this disk.
    astray = [file.path for file in manifest.files if not _stays(file.path)]
    if astray or not LINE.fullmatch(line):
        raise damaged(line, digest, f"its manifest names {(astray or [line])[0]!r}", where)
    if (named.line, named.digest) != (line, digest) or digest_of(manifest.files) != digest:
        raise damaged(line, digest, f"{MANIFEST} lists the files of something else", where)
    return manifest


def damaged(line: str, digest: str, why: str, where: str) -> ArtifactDamaged:
    """The error for an artifact that is no longer what was made."""
    return ArtifactDamaged(
        f"store://{line}/{digest} is no longer what was weighed: {why}.",
        f"Remove the artifact's folder and run `weighbridge release {line} --fresh`.",
        where=where,
    )


def _stays(path: str) -> bool:
    """Whether a file's name keeps it inside its artifact's folder."""
    return not {"", ".", ".."} & set(path.split("/")) and "\\" not in path and "\0" not in path


def digest_of(entries: tuple[FileEntry, ...]) -> str:
    """An artifact's name: SHA-256 over its files' paths, sizes and hashes."""
    ordered = sorted(entries, key=lambda entry: entry.path)
    listing = json.dumps([entry.model_dump() for entry in ordered], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(listing.encode()).hexdigest()


def entries_of(folder: Path, known_sha256: Mapping[str, str]) -> tuple[FileEntry, ...]:
    """A folder's files by their paths, hashed unless their hashes are known."""
    entries = []
    for path in files_of(folder):
        name = path.relative_to(folder).as_posix()
        sha256 = known_sha256.get(name) or sha256_of(path)
        entries.append(FileEntry(path=name, size_bytes=path.stat().st_size, sha256=sha256))
    return tuple(sorted(entries, key=lambda entry: entry.path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> Iterator[Path]:
    """Every file below a folder."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def sync(folder: Path) -> None:
    """Force a folder and all below it onto the disk."""
    for path in folder.rglob("*"):
        sync_one(path)
    sync_one(folder)


def sync_one(path: Path) -> None:
    """Force one file's or folder's own content onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
