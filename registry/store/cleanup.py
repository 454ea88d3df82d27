"""Cleaning the store: which artifacts may be removed, and their removal without a visible partial state.

The caller, who asks MLflow and the fleet, says which artifacts are in use. The following stay as well: the sources of
what stays (same repository and commit, as published); each line's newest artifacts, if asked for; whatever a living
process was given the path of; and whatever came or was used too lately to be registered, since a release weighs its
candidates for hours first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from registry.store.artifact import Artifact
from registry.store.entry import Entry
from registry.store.local import Store
from registry.store.place import STAGING, move_away, remove, size_of


class Removed(BaseModel):
    """One thing that was removed, or would be."""

    model_config = ConfigDict(frozen=True)

    line: str
    name: str
    """Digest of an artifact, or name of a staging folder."""
    scheme: str
    """Empty for a staging folder."""
    size_bytes: int
    why: str


class Cleaned(BaseModel):
    """What a cleaning removed, or would remove."""

    model_config = ConfigDict(frozen=True)

    removed: tuple[Removed, ...]
    kept: int
    """Number of artifacts that stay."""
    dry_run: bool

    @property
    def freed_bytes(self) -> int:
        """Bytes freed on this disk."""
        return sum(removed.size_bytes for removed in self.removed)


def clean(
    store: Store,
    keep: set[str],
    *,
    keep_now: Callable[[], set[str]] = set,
    newest: int = 0,
    min_age_seconds: float = 0.0,
    dry_run: bool = False,
) -> Cleaned:
    """Remove unused artifacts, and what dead processes left, from this disk. The remote store is left alone.

    Args:
        store: Store to clean.
        keep: Digests that stay.
        keep_now: Asked for further digests that stay, once no process can begin to use what seems unused.
        newest: Number of each line's newest artifacts that stay too.
        min_age_seconds: Artifacts that came or were used later than that stay.
        dry_run: Only report what would be removed.

    Raises:
        ArtifactDamaged: A manifest cannot be read, so it is unknown what it belongs to. Nothing is removed.
    """
    local = store.artifacts(local_only=True)

    def staying(used: set[str]) -> set[str]:
        return _staying(store, local, used, newest, min_age_seconds)

    idle = [artifact for artifact in local if artifact.digest not in staying(keep)]
    removed: list[Removed] = []
    with ExitStack() as held:
        in_use = {artifact.digest for artifact in idle if not held.enter_context(store.unused(artifact))}
        stays = staying(keep | in_use | (keep_now() if idle else set()))
        for artifact in idle:
            if artifact.digest in stays:
                continue
            size, scheme = artifact.size_bytes, artifact.scheme
            why = "nothing uses it"
            removed.append(Removed(line=artifact.line, name=artifact.digest, scheme=scheme, size_bytes=size, why=why))
            if not dry_run:
                _remove(store, artifact)
    kept = len(local) - len(removed)
    for folder in sorted(store.folder.glob(f"*/{STAGING}/*")):
        if leftover := _remove_leftover(store, folder, dry_run):
            removed.append(leftover)
    return Cleaned(removed=tuple(removed), kept=kept, dry_run=dry_run)


def _staying(store: Store, local: list[Artifact], keep: set[str], newest: int, min_age_seconds: float) -> set[str]:
    # Two lines may hold the same digest, each with times of its own.
    dated = [(store.created_at(artifact), artifact) for artifact in local]
    newest_first = [found for _, found in sorted(dated, key=lambda pair: (pair[0], pair[1].digest), reverse=True)]
    staying = {artifact.digest for artifact in local if artifact.digest in keep}
    now = time.time()
    staying |= {
        artifact.digest for seconds, artifact in dated if now - max(seconds, store.used_at(artifact)) < min_age_seconds
    }
    for line in {artifact.line for artifact in local}:
        staying |= {artifact.digest for artifact in [a for a in newest_first if a.line == line][:newest]}
    used_sources = {_source(artifact) for artifact in local if artifact.digest in staying}
    for artifact in local:
        if _source(artifact) in used_sources and _is_download(store, artifact):
            staying.add(artifact.digest)
    return staying


def _is_download(store: Store, artifact: Artifact) -> bool:
    return store.manifest(artifact.line, artifact.digest).facts.get("made_by") == "download"


def _source(artifact: Artifact) -> tuple[str, str, str]:
    return (artifact.line, artifact.repo, artifact.commit)


def _remove(store: Store, artifact: Artifact) -> None:
    """Remove an artifact. It is renamed first, so that it is there whole or not at all."""
    with FileLock(store.folder / artifact.line / ".lock"):
        gone = move_away(Entry(store.folder, artifact.line, artifact.digest))
    remove(gone)


def _remove_leftover(store: Store, folder: Path, dry_run: bool) -> Removed | None:
    """Remove a staging folder whose lock no living process holds."""
    line = folder.parent.parent.name
    # Entries that are being moved in belong to the holder of the line's lock; the others have a lock of their own.
    shared = folder.name.startswith(("entry-", "gone-"))
    lock = FileLock(store.folder / line / ".lock") if shared else store.building(line, folder.name)
    try:
        with lock.acquire(timeout=0):
            if not os.path.lexists(folder):
                return None
            size = size_of(folder)
            if not dry_run:
                remove(folder)
    except Timeout:
        return None
    return Removed(line=line, name=folder.name, scheme="", size_bytes=size, why="left by a process that ended")
