"""Cleaning the store: what may go, and taking it away so that nobody ever sees half of it.

What must stay is told by the caller, who asks MLflow and the fleet. Beside that stay: the sources of what
stays (`the same repository and commit, as published`), each line's newest artifacts where that is asked
for, and what is too young to have been registered: a release weighs its candidates for hours first.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from registry.store.artifact import Artifact, files_of

if TYPE_CHECKING:
    from registry.store.local import Store

STAGING = ".staging"


class Removed(BaseModel):
    """One thing that was removed, or would be."""

    model_config = ConfigDict(frozen=True)

    line: str
    name: str
    """An artifact's digest, or a staging folder's name."""
    scheme: str
    """Empty for what never became an artifact."""
    size_bytes: int
    why: str


class Cleaned(BaseModel):
    """What a cleaning removed, or would."""

    model_config = ConfigDict(frozen=True)

    removed: tuple[Removed, ...]
    kept: int
    """Artifacts that stay."""
    dry_run: bool

    @property
    def freed_bytes(self) -> int:
        """Bytes on this disk."""
        return sum(one.size_bytes for one in self.removed)


def clean(store: Store, keep: set[str], *, newest: int, youngest_seconds: float, dry_run: bool) -> Cleaned:
    """Remove artifacts that nobody needs and what dead processes left, from this disk only.

    Args:
        keep: digests that stay, whatever else.
        newest: how many of each line's youngest artifacts stay too.
        youngest_seconds: an artifact younger than this stays.
        dry_run: say what would go, and touch nothing.

    Raises:
        ArtifactDamaged: a manifest cannot be read, so that it is not known what it belongs to; nothing is removed.
    """
    local = store.artifacts(only_here=True)
    staying = _staying(store, local, keep, newest, youngest_seconds)
    removed: list[Removed] = []
    for artifact in local:
        if artifact.digest not in staying:
            removed.append(
                Removed(
                    line=artifact.line,
                    name=artifact.digest,
                    scheme=artifact.scheme,
                    size_bytes=artifact.size_bytes,
                    why="nothing uses it",
                )
            )
            if not dry_run:
                _take_away(store, artifact)
    for folder in sorted(store.folder.glob(f"*/{STAGING}/*")):
        if folder.is_dir() and (found := _leftover(store, folder, dry_run)):
            removed.append(found)
    return Cleaned(removed=tuple(removed), kept=len(local) - sum(bool(one.scheme) for one in removed), dry_run=dry_run)


def _staying(store: Store, local: list[Artifact], keep: set[str], newest: int, youngest_seconds: float) -> set[str]:
    by_age = sorted(local, key=lambda one: (store.made_at(one), one.digest), reverse=True)
    staying = {one.digest for one in local if one.digest in keep}
    staying |= {one.digest for one in by_age if time.time() - store.made_at(one) < youngest_seconds}
    for line in {one.line for one in local}:
        staying |= {one.digest for one in [one for one in by_age if one.line == line][:newest]}
    origins = {(one.line, one.repo, one.commit) for one in local if one.digest in staying}
    for one in local:
        if (one.line, one.repo, one.commit) in origins and store.facts(one).get("made_by") == "download":
            staying.add(one.digest)
    return staying


def _take_away(store: Store, artifact: Artifact) -> None:
    """Rename first: an artifact is there whole or not at all, in its end too."""
    home = store.folder / artifact.line
    with FileLock(home / ".lock"):
        gone = home / STAGING / f"gone-{artifact.digest}"
        gone.parent.mkdir(exist_ok=True)
        (home / artifact.digest).rename(gone)
    shutil.rmtree(gone)


def _leftover(store: Store, folder: Path, dry_run: bool) -> Removed | None:
    """A staging folder that no living process holds the lock of."""
    line = folder.parent.parent.name
    # Entries on their way in belong to who holds the line's lock, the others have one of their own.
    shared = folder.name.startswith(("entry-", "gone-"))
    lock = FileLock(store.folder / line / ".lock") if shared else store.building(line, folder.name)
    try:
        with lock.acquire(timeout=0):
            if not folder.is_dir():
                return None
            size = sum(path.stat().st_size for path in files_of(folder))
            if not dry_run:
                shutil.rmtree(folder)
    except Timeout:
        return None
    return Removed(line=line, name=folder.name, scheme="", size_bytes=size, why="left by a process that ended")
