"""The store in a local folder, in front of a remote store if there is one."""

from __future__ import annotations

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Self

from filelock import FileLock

from registry.signing import KEYS_FOLDER, KeyPair, manifests
from registry.store import use
from registry.store.artifact import MANIFEST, Artifact, FileEntry, Manifest, digest_of, read_manifest
from registry.store.check import Progress, entries_of
from registry.store.entry import Entry
from registry.store.origins import require_traceable
from registry.store.place import publish, settle
from registry.store.provenance import Provenance
from registry.store.remote import Remote
from registry.store.transfer import Transfer
from weighbridge.errors import ArtifactDamaged, ArtifactUnsigned, WeighbridgeError
from weighbridge.files import write_whole
from weighbridge.settings import Settings, load_settings

logger = logging.getLogger(__name__)
SPARE_BYTES = 16 * 2**20
"""Disk kept free for the manifest and for other writers while an artifact is fetched from the remote store."""
_checking: defaultdict[tuple[Path, str], RLock] = defaultdict(RLock)
"""By store and digest: threads that ask for the same artifact at once hash it once."""


class Store(Transfer):
    """The artifact store.

    Args:
        folder: Root of the local store. None: the store of this process's installation, with its remote store and
            its keys; the other arguments are then ignored.
        url: Remote store beside it, any address that fsspec knows.
        keys: Keys for signing manifests; by default a pair in the folder `keys` beside the store, so that a store and
            the key that signed its contents stay together.
    """

    def __init__(self, folder: Path | None = None, url: str | None = None, keys: KeyPair | None = None) -> None:
        if folder is None:
            settings = load_settings()
            folder, url, keys = settings.store_folder, settings.store_url, KeyPair.of(settings)
        super().__init__(folder, Remote(url) if url else None)
        self._keys = keys or KeyPair(folder.parent / KEYS_FOLDER, store=folder)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Open the store of an installation: its folder, its remote store and its signing keys."""
        return cls(settings.store_folder, settings.store_url, KeyPair.of(settings))

    def path(self, artifact: Artifact, progress: Progress | None = None) -> Path:
        """Return the folder with the model's files, verified: this is what everybody reads a model from.

        The signature is checked every time, and each file hashed once a process, then again when its inode, size or
        times changed (registry/store/check.py says against whom that helps). `clean` removes nothing that a living
        process was given. An artifact that is damaged on this disk is fetched again if the remote store's is sound.

        Args:
            artifact: The model.
            progress: Called with (bytes checked, bytes in all) after each file.

        Raises:
            ArtifactMissing: Neither store holds it.
            ArtifactUnsigned: It has no signature, or one by another key.
            ArtifactDamaged: A file or the manifest is missing, added or altered; it is named.
            StoreUnreachable, DiskFull: It could not be fetched.
        """
        entry = self._require(artifact.line, artifact.digest)
        use.share(self._lock_of_use(artifact))
        with _checking[self.folder, artifact.digest]:
            if not entry.exists():
                self._fetch(entry)
                return entry.model
            try:
                entry.verify(self._keys, progress)
            except (ArtifactDamaged, ArtifactUnsigned) as error:
                self._fetch_instead(entry, error)
        return entry.model

    def facts(self, artifact: Artifact) -> dict[str, object]:
        """Return what the signed manifest records of how the artifact was made (recipe, versions, coverage).

        Raises:
            ArtifactMissing: Neither store holds it.
            ArtifactUnsigned, ArtifactDamaged: The manifest is not what was signed.
            StoreUnreachable: It is not on this disk, and the remote store does not answer.
        """
        entry = self._require(artifact.line, artifact.digest)
        if entry.exists():
            return entry.signed_manifest(self._keys).facts
        found = self.remote.signed(entry.line, entry.digest) if self.remote else None
        if self.remote is None or found is None:
            raise self._missing(entry.line, entry.digest)
        manifests.verify(*found, Path(self.remote.url, *entry.names, MANIFEST), artifact.uri, self._keys)
        return read_manifest(found[0], entry.line, entry.digest, self.remote.url).facts

    @contextmanager
    def reading(self, *artifacts: Artifact) -> Iterator[tuple[Path, ...]]:
        """Yield the verified folders of artifacts for a long reading, whose result counts if nothing changed meanwhile.

        Raises:
            ArtifactMissing, ArtifactUnsigned, ArtifactDamaged: As `path`, before the block or after it.
        """
        yield tuple(self.path(artifact) for artifact in artifacts)
        for artifact in artifacts:
            self._entry(artifact.line, artifact.digest).verify(self._keys)

    def adopt(
        self,
        folder: Path,
        *,
        line: str,
        scheme: str,
        repo: str,
        commit: str,
        facts: dict[str, object] | None = None,
        provenance: Provenance | None = None,
        known_sha256: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Turn a finished folder into an artifact: hash, sign, sync, move into place, copy to the remote store.

        An artifact of the same content that is there already stays, unless it is damaged or unsigned: then this one
        replaces it.

        Args:
            folder: Folder with the model's files; it is moved away.
            line, scheme, repo, commit: Identity of the artifact.
            facts, provenance: Recorded in the manifest; not part of the digest.
            known_sha256: Path -> hash that a file had when it was written. One that has another now is refused.

        Returns:
            The artifact; the existing one if the content is the same.

        Raises:
            ArtifactDamaged: The folder holds a link, a pipe or the like, or a file that was altered meanwhile.
            SigningKeyUnusable: The manifest cannot be signed.
            StoreUnreachable: It is in the local store but could not be copied. The same call copies it later.
        """
        files = _finished(folder, known_sha256 or {})
        artifact = Artifact(
            line=line,
            digest=digest_of(files),
            scheme=scheme,
            repo=repo,
            commit=commit,
            size_bytes=sum(entry.size_bytes for entry in files),
        )
        manifest = Manifest(artifact=artifact, files=files, facts=facts or {}, provenance=provenance)
        entry = self._entry(line, artifact.digest)
        with FileLock(self.folder / line / ".lock"):
            if self._is_sound(entry):
                shutil.rmtree(folder, ignore_errors=True)
                manifest = entry.manifest()
            else:
                self._move_in(folder, manifest)
        if self.remote and not self.remote.looks_whole(manifest):
            self.remote.put(entry.folder, manifest)
        return manifest.artifact

    def _is_sound(self, entry: Entry) -> bool:
        if not os.path.lexists(entry.folder):
            return False
        try:
            entry.verify(self._keys)
        except (ArtifactDamaged, ArtifactUnsigned) as error:
            logger.warning("A fresh copy replaces what is in the store: %s", error.what)
            return False
        return True

    def _move_in(self, folder: Path, manifest: Manifest) -> None:
        artifact = manifest.artifact
        staged = self._staged(artifact.line, artifact.digest, "entry")
        shutil.rmtree(staged.folder, ignore_errors=True)
        staged.folder.mkdir(parents=True)
        write_whole(staged.folder / MANIFEST, manifest.as_json())
        staged.sign(self._keys)
        folder.rename(staged.model)
        publish(staged, self._entry(artifact.line, artifact.digest))

    def sign(self, artifact: Artifact) -> None:
        """Sign an artifact that was made before manifests were signed, or by another installation.

        Its files are hashed first, because a signature would make a damaged artifact look right.

        Raises:
            ArtifactMissing, ArtifactDamaged, SigningKeyUnusable: Nothing is signed.
        """
        self.verify(artifact, signed=False)
        entry = self._entry(artifact.line, artifact.digest)
        entry.sign(self._keys)
        if self.remote:
            manifest = entry.manifest()
            if not self.remote.holds(artifact.line, artifact.digest):
                self.remote.put(entry.folder, manifest)
            self.remote.put_manifest(entry.folder, manifest)

    def push(self, artifact: Artifact, progress: Progress | None = None) -> None:
        """Upload this disk's copy over the remote store's, after hashing it: the repair of a damaged remote copy.

        Raises:
            ArtifactMissing, ArtifactUnsigned, ArtifactDamaged: Nothing is uploaded.
            StoreUnreachable: There is no remote store, or it does not answer.
        """
        self.verify(artifact, progress)
        if self.remote is not None:
            entry = self._entry(artifact.line, artifact.digest)
            self.remote.put(entry.folder, entry.manifest(), overwrite=True)

    def verify(self, artifact: Artifact, progress: Progress | None = None, *, signed: bool = True) -> None:
        """Check the manifest's signature, then hash every file of an artifact again, also what this process hashed.

        Args:
            artifact: Artifact to check.
            progress: Called with (bytes hashed, bytes in all) after each file.
            signed: Whether a signature is required.

        Raises:
            ArtifactMissing: The store does not hold it.
            ArtifactUnsigned: It has no signature, or one by another key.
            ArtifactDamaged: A file or the manifest is missing, added, altered or no file; it is named.
            ProvenanceBroken: It was made of something else than the store has as its source.
        """
        entry = self._require(artifact.line, artifact.digest)
        # Not for as long as the process lives, as `path` does: whoever verifies a whole store every night uses nothing.
        with use.shared(self._lock_of_use(artifact)), _checking[self.folder, artifact.digest]:
            if not entry.exists():
                self._fetch(entry, signed=signed)
            manifest = entry.verify(self._keys, progress, signed=signed, reread=True)
        require_traceable(self, manifest)

    def _fetch(self, entry: Entry, *, signed: bool = True) -> None:
        """Fetch an artifact from the remote store: whole and verified, or not at all."""
        line, digest = entry.line, entry.digest
        content = self.remote.manifest(line, digest) if self.remote else None
        if self.remote is None or content is None:
            raise self._missing(line, digest)
        manifest = read_manifest(content, line, digest, self.remote.url)
        artifact = manifest.artifact
        self.require_free(artifact.size_bytes + SPARE_BYTES, f"{artifact.uri} from {self.remote.url}")
        staged = self._staged(line, digest, "fetch")
        with self.fresh_staging(line, staged.folder.name):
            self.remote.fetch(manifest, content, staged.folder)
            settle(staged.model)
            try:
                staged.verify(self._keys, signed=signed)
            except ArtifactDamaged as error:
                raise self.remote.damaged(error) from None
            with FileLock(self.folder / line / ".lock"):
                publish(staged, entry)

    def _fetch_instead(self, entry: Entry, error: WeighbridgeError) -> None:
        """Replace a damaged artifact by the remote store's; if that is none or no better, raise the error."""
        if self.remote is None:
            raise error
        try:
            self._fetch(entry)
        except WeighbridgeError as second:
            raise error from second
        logger.warning("Fetched again from %s: %s", self.remote.url, error.what)


def _finished(folder: Path, known_sha256: Mapping[str, str]) -> tuple[FileEntry, ...]:
    """List a finished folder's files, read-only from now on and hashed."""
    try:
        settle(folder)
        files = entries_of(folder)
        altered = [entry.path for entry in files if known_sha256.get(entry.path, entry.sha256) != entry.sha256]
        if altered:
            raise ValueError(f"{altered[0]} was altered after it was written")
    except ValueError as error:
        raise ArtifactDamaged(
            f"What was built is no artifact: {error}.",
            "Find out who else writes to the store, then run the same command again.",
            where=str(folder),
        ) from None
    return files
