"""Artifacts into a backup and out of one, file by file, each read once and hashed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from registry.signing import KeyPair
from registry.store import use
from registry.store.artifact import MANIFEST, MODEL, SIGNATURE, STATEMENT, Artifact, Manifest
from registry.store.listing import Listing
from registry.store.place import publish, remove, settle
from registry.store.staging import Workshop
from registry.store.tree import opened_folder
from weighbridge.errors import ArtifactDamaged, ArtifactUnsigned
from weighbridge.files import write_whole

BESIDE = (MANIFEST, SIGNATURE, STATEMENT)
"""Small files of an artifact."""


class Transfer(Listing, Workshop):
    """The part of a store that hands artifacts on."""

    _keys: KeyPair

    @contextmanager
    def handing_on(self, artifact: Artifact) -> Iterator[tuple[Manifest, int]]:
        """Yield an artifact's signed manifest and its open folder, whose files the caller hashes as it reads them.

        `clean` removes it only afterwards.

        Raises:
            ArtifactMissing: This disk does not hold it.
            ArtifactUnsigned, ArtifactDamaged: Its manifest is not what was signed.
        """
        entry = self._require(artifact.line, artifact.digest)
        with use.shared(self._lock_of_use(artifact)):
            if not entry.exists():
                raise self._missing(artifact.line, artifact.digest)
            manifest = entry.signed_manifest(self._keys)
            with opened_folder(self.folder, *entry.names, MODEL) as folder:
                yield manifest, folder

    def beside(self, artifact: Artifact) -> dict[str, Path]:
        """Return the small files beside an artifact's model, by name."""
        folder = self._require(artifact.line, artifact.digest).folder
        return {name: path for name in BESIDE if (path := folder / name).is_file()}

    def holds_sound(self, artifact: Artifact) -> bool:
        """Return whether this disk has an artifact, signed and whole, every file hashed."""
        entry = self._entry(artifact.line, artifact.digest)
        if not entry.exists():
            return False
        try:
            entry.verify(self._keys)
        except (ArtifactDamaged, ArtifactUnsigned):
            return False
        return True

    def take_in(self, artifact: Artifact, beside: Mapping[str, bytes], write: Callable[[Manifest, Path], None]) -> None:
        """Build an artifact from elsewhere: it is in the store whole, or not at all.

        Args:
            artifact: What it is.
            beside: Small files beside the model: manifest, signature, statement.
            write: Writes the manifest's files into a folder, after it has hashed each.

        Raises:
            ArtifactUnsigned, ArtifactDamaged: The manifest is not signed by the store's keys, or not this artifact's.
            DiskFull: The disk is full.
        """
        staged = self._staged(artifact.line, artifact.digest, "restore")
        with self.fresh_staging(artifact.line, staged.folder.name):
            for name in BESIDE:
                if name in beside:
                    write_whole(staged.folder / name, beside[name])
            manifest = staged.signed_manifest(self._keys)
            staged.model.mkdir()
            write(manifest, staged.model)
            settle(staged.model)
            with FileLock(self.folder / artifact.line / ".lock"):
                publish(staged, self._entry(artifact.line, artifact.digest))

    def discard(self, artifact: Artifact) -> None:
        """Remove an artifact that `take_in` built, because the backup that it came from is damaged."""
        remove(self._require(artifact.line, artifact.digest).folder)
