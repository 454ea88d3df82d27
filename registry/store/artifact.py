"""An artifact: its files, its manifest, its digest."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.store.provenance import Input, Provenance
from registry.store.tree import FILE, is_safe_path
from weighbridge.errors import ArtifactDamaged

MODEL = "model"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
STATEMENT = "provenance.json"
SMALL_BYTES = 64 * 2**20
"""Most that is read of a manifest or its signature."""
LINE = re.compile(r"\w[\w.-]*")
"""Allowed names of lines, because a name becomes a folder."""
DIGEST = re.compile(r"[0-9a-f]{64}")


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

    @property
    def as_input(self) -> Input:
        """This artifact as the input of another, for whoever read it through `Store.path`."""
        return Input(uri=self.uri, digest={"sha256": self.digest})


class Manifest(BaseModel):
    """Content of `manifest.json`: an artifact, its files, and how it was made."""

    model_config = ConfigDict(frozen=True)

    artifact: Artifact
    files: tuple[FileEntry, ...]
    facts: dict[str, object]
    provenance: Provenance | None = None
    """Inputs, builder and parameters; None in manifests from before it was recorded."""

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
    outside = [file.path for file in manifest.files if not is_safe_path(file.path)]
    if outside or not LINE.fullmatch(line):
        raise damaged(line, digest, f"its manifest names {(outside or [line])[0]!a}", where)
    if (named.line, named.digest) != (line, digest) or digest_of(manifest.files) != digest:
        raise damaged(line, digest, f"{MANIFEST} lists the files of something else", where)
    if len({file.path for file in manifest.files}) != len(manifest.files):
        raise damaged(line, digest, f"{MANIFEST} lists a file twice", where)
    if named.size_bytes != sum(file.size_bytes for file in manifest.files):
        raise damaged(line, digest, f"{MANIFEST} gives another size than its files have", where)
    return manifest


def damaged(line: str, digest: str, why: str, where: str) -> ArtifactDamaged:
    """Make the error for an artifact whose files have changed."""
    return ArtifactDamaged(
        f"store://{line}/{digest} is no longer what was weighed: {why}.",
        f"Run `weighbridge release {line} --fresh`: a fresh copy replaces the damaged one. Check the disk.",
        where=where,
    )


def digest_of(entries: tuple[FileEntry, ...]) -> str:
    """Compute an artifact's digest: SHA-256 over its files' paths, sizes and hashes."""
    ordered = sorted(entries, key=lambda entry: entry.path)
    listing = json.dumps([entry.model_dump() for entry in ordered], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(listing.encode()).hexdigest()


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
    descriptor = os.open(path, FILE)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
