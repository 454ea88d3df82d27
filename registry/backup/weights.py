"""The weights in a backup: file after file behind the archive, each read once, in parts, and hashed on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from io import BufferedReader
from pathlib import Path
from typing import IO

from registry.backup.container import CHUNK, Archive, damaged
from registry.backup.production import STORE, Weights
from registry.store import Artifact, FileEntry, Manifest, Store
from registry.store.tree import open_file
from weighbridge.errors import ArtifactDamaged, BackupDamaged
from weighbridge.files import naming_a_full_disk

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


def no_progress(done: int, total: int) -> None:
    """Ignore progress."""


class Count:
    """Counts bytes for a progress."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._done, self._total, self._progress = 0, total, progress
        progress(0, total)

    def add(self, size: int) -> None:
        """Count some more."""
        self._done += size
        self._progress(self._done, self._total)


def write_weights(store: Store, weights: Iterable[Weights], out: IO[bytes], count: Count) -> None:
    """Append the weights to a backup's file.

    Raises:
        ArtifactDamaged: A file is not what the manifest says.
        ArtifactMissing, ArtifactUnsigned: The store lost it meanwhile.
        DiskFull: The disk is full.
    """
    for part in weights:
        with store.handing_on(part.artifact) as (_, folder):
            for entry in part.files:
                try:
                    with open_file(folder, entry.path) as file:
                        copied = _copy(file, entry.size_bytes, out.write, count)
                        whole = copied == entry.sha256 and not file.read(1)
                except FileNotFoundError:
                    whole = False
                if not whole:
                    raise ArtifactDamaged(
                        f"{part.artifact.uri} is no longer what was weighed: {entry.path}.",
                        f"Run `weighbridge release {part.artifact.line} --fresh`, then back up again. Check the disk.",
                        where=part.artifact.uri,
                    )


def check_weights(archive: Archive, weights: Iterable[Weights], source: Path, count: Count) -> None:
    """Read all weights of a backup and check each file; nothing is written.

    Raises:
        BackupDamaged: A byte is altered, missing or added.
    """
    archive.file.seek(archive.weights_start)
    for part in weights:
        for entry in part.files:
            _require(archive.file, entry, part.artifact, source, len, count)


def restore_weights(
    archive: Archive, weights: Iterable[Weights], store: Store, members: Path, source: Path, count: Count
) -> list[Artifact]:
    """Put a backup's weights into the store; an artifact that is there and sound stays.

    Args:
        archive: The backup.
        weights: In their order.
        store: Where they go. Its keys are those that signed the manifests.
        members: Folder with the archive's members, manifests among them.
        source: The backup's file, for messages.
        count: Counts bytes.

    Returns:
        The artifacts that were added.

    Raises:
        BackupDamaged: A byte is altered, missing or added. What was added is removed.
        DiskFull: The disk is full. Artifacts that are whole stay, for the next try.
    """
    added: list[Artifact] = []
    at = archive.weights_start
    try:
        for part in weights:
            size = sum(entry.size_bytes for entry in part.files)
            if store.holds_sound(part.artifact):
                count.add(size)
            else:
                archive.file.seek(at)
                _take_in(archive.file, part, store, members, source, count)
                added.append(part.artifact)
            at += size
    except BackupDamaged:
        for artifact in added:
            store.discard(artifact)
        raise
    return added


def require_length(archive: Archive, weights: Iterable[Weights], source: Path) -> None:
    """Check that a backup ends where its weights do.

    Raises:
        BackupDamaged: It is cut, or something follows.
    """
    expected = archive.weights_start + sum(entry.size_bytes for part in weights for entry in part.files)
    found = os.fstat(archive.file.fileno()).st_size
    if found != expected:
        raise damaged(source, f"it has {found} bytes and should have {expected}")


def _take_in(file: BufferedReader, part: Weights, store: Store, members: Path, source: Path, count: Count) -> None:
    artifact = part.artifact
    folder = members / STORE / artifact.line / artifact.digest

    def write(manifest: Manifest, target: Path) -> None:
        if manifest.files != part.files:
            raise damaged(source, f"its listing of {artifact.uri} is not the manifest's")
        for entry in manifest.files:
            path = target / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with naming_a_full_disk(path), path.open("xb") as out:
                _require(file, entry, artifact, source, out.write, count)
                out.flush()
                os.fsync(out.fileno())

    store.take_in(artifact, {path.name: path.read_bytes() for path in folder.iterdir()}, write)


def _require(
    file: BufferedReader,
    entry: FileEntry,
    artifact: Artifact,
    source: Path,
    take: Callable[[bytes], object],
    count: Count,
) -> None:
    if _copy(file, entry.size_bytes, take, count) != entry.sha256:
        raise damaged(source, f"{entry.path} of {artifact.uri} is not what was written")


def _copy(file: IO[bytes], size: int, take: Callable[[bytes], object], count: Count) -> str:
    """Hand a number of bytes on in parts, fewer if the file ends, and return their hash."""
    sha256 = hashlib.sha256()
    while size and (data := file.read(min(size, CHUNK))):
        size -= len(data)
        sha256.update(data)
        take(data)
        count.add(len(data))
    return sha256.hexdigest()
