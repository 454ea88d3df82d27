"""What a store holds, by its manifests: names, sizes and how each artifact was made. No model is read here."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from registry.store import use
from registry.store.artifact import LINE, SIGNATURE, STATEMENT, Artifact, FileEntry, Manifest, read_manifest
from registry.store.entry import Entry
from registry.store.place import LOCKS, STAGING
from registry.store.remote import Remote
from weighbridge.errors import ArtifactMissing


class Listing:
    """The part of a store that says what there is.

    Args:
        folder: Root of the local store.
        remote: The remote store, if there is one.
    """

    def __init__(self, folder: Path, remote: Remote | None = None) -> None:
        self.folder, self.remote = folder, remote

    def unverified_folder(self, artifact: Artifact) -> Path:
        """Return an artifact's folder on this disk, unchecked: to remove, date or repair it, never to read its model.

        Raises:
            ArtifactMissing: Such a name cannot be in the store.
        """
        return self._require(artifact.line, artifact.digest).folder

    def get(self, line: str, digest: str) -> Artifact:
        """Return the artifact of a digest.

        Raises:
            ArtifactMissing: The store does not hold it.
        """
        return self.manifest(line, digest).artifact

    def holds(self, line: str, digest: str) -> bool:
        """Return whether the local or the remote store has this artifact."""
        if self.holds_locally(line, digest):
            return True
        return self.remote is not None and self._entry(line, digest).can_exist and self.remote.holds(line, digest)

    def holds_locally(self, line: str, digest: str) -> bool:
        """Return whether this machine's disk has this artifact."""
        return self._entry(line, digest).exists()

    def artifacts(self, line: str | None = None, *, local_only: bool = False) -> list[Artifact]:
        """List all artifacts, or a line's, of the local and the remote store, in no particular order.

        Raises:
            ArtifactDamaged: A manifest cannot be read; it is named.
        """
        return [self.get(*name) for name in self.listed(line, local_only=local_only)]

    def listed(self, line: str | None = None, *, local_only: bool = False) -> list[tuple[str, str]]:
        """List line and digest of all artifacts, even if their manifests cannot be read.

        Raises:
            StoreUnreachable: The remote store does not answer.
        """
        lines = [line] if line else _names_in(self.folder)
        found = {(name, digest) for name in lines if LINE.fullmatch(name) for digest in _names_in(self.folder / name)}
        local = {name for name in found if self.holds_locally(*name)}
        remote = self.remote.listed(line) if self.remote and not local_only else []
        return sorted(local | {name for name in remote if self._entry(*name).can_exist})

    def files(self, artifact: Artifact) -> tuple[FileEntry, ...]:
        """Return the manifest's list of files."""
        return self.manifest(artifact.line, artifact.digest).files

    def manifest(self, line: str, digest: str) -> Manifest:
        """Return an artifact's manifest, whose signature is not checked: to list, clean and repair.

        Raises:
            ArtifactMissing: The store does not hold it.
            ArtifactDamaged: The manifest cannot be read, or is another artifact's.
            StoreUnreachable: It is not on this disk, and the remote store does not answer.
        """
        entry = self._require(line, digest)
        if entry.exists():
            return entry.manifest()
        if self.remote and (content := self.remote.manifest(line, digest)):
            return read_manifest(content, line, digest, f"{self.remote.url}/{line}/{digest}")
        raise self._missing(line, digest)

    def statement(self, artifact: Artifact) -> str:
        """Return the signed in-toto statement of how an artifact on this disk was made, in its DSSE envelope.

        Raises:
            ArtifactDamaged: There is none, or it cannot be read.
        """
        return self._require(artifact.line, artifact.digest).read(STATEMENT).decode(errors="replace")

    def created_at(self, artifact: Artifact) -> float:
        """Return when it came into the local store, seconds since 1970; 0 if only the remote store has it."""
        about = self._entry(artifact.line, artifact.digest).about()
        return about.st_mtime if about else 0.0

    def used_at(self, artifact: Artifact) -> float:
        """Return when a process was last given its path on this machine, seconds since 1970; 0 if none ever was."""
        return use.last_used(self._lock_of_use(artifact))

    def unused(self, artifact: Artifact) -> AbstractContextManager[bool]:
        """Keep processes from beginning to use an artifact, and yield whether none uses it now."""
        return use.exclusive(self._lock_of_use(artifact))

    def signed(self, artifact: Artifact) -> bool:
        """Return whether a signature lies beside the local manifest. `verify` checks it."""
        entry = self._entry(artifact.line, artifact.digest)
        return entry.about(SIGNATURE) is not None

    def _entry(self, line: str, digest: str) -> Entry:
        return Entry(self.folder, line, digest)

    def _staged(self, line: str, digest: str, what: str) -> Entry:
        return Entry(self.folder, line, digest, (STAGING, f"{what}-{digest}"))

    def _require(self, line: str, digest: str) -> Entry:
        entry = self._entry(line, digest)
        if not entry.can_exist:
            raise self._missing(line, digest)
        return entry

    def _lock_of_use(self, artifact: Artifact) -> Path:
        return self.folder / artifact.line / LOCKS / f"{artifact.digest}.use"

    def _missing(self, line: str, digest: str) -> ArtifactMissing:
        return ArtifactMissing(
            f"The store does not hold store://{line}/{digest[:12]}….",
            f"Run `weighbridge release {line} --fresh` to make it anew, or restore the store from its backup.",
            where=" and ".join([str(self.folder), *([self.remote.url] if self.remote else [])]),
        )


def _names_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, links left out."""
    try:
        with os.scandir(folder) as found:
            return [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
