"""The store in a local folder, in front of a remote store if there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from filelock import FileLock

from registry.signing import KEYS_FOLDER, KeyPair, manifests
from registry.store.artifact import (
    MANIFEST,
    MODEL,
    Artifact,
    FileEntry,
    Manifest,
    damaged,
    digest_of,
    entries_of,
    read_manifest,
    sync,
    sync_one,
)
from registry.store.check import Progress, wrong_files
from registry.store.remote import Remote
from weighbridge.errors import ArtifactMissing, DiskFull
from weighbridge.files import write_whole
from weighbridge.settings import Settings, load_settings
from weighbridge.units import GIB

STAGING, LOCKS = ".staging", ".locks"
SPARE_BYTES = 16 * 2**20
"""Disk kept free for the manifest and for other writers while an artifact is fetched from the remote store."""


class Store:
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
        self.folder = folder
        self.remote = Remote(url) if url else None
        self._keys = keys or KeyPair(folder.parent / KEYS_FOLDER, store=folder)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Open the store of an installation: its folder, its remote store and its signing keys."""
        return cls(settings.store_folder, settings.store_url, KeyPair.of(settings))

    def path(self, artifact: Artifact) -> Path:
        """Return the folder with the model's files, fetched first if only the remote store holds them.

        Raises:
            ArtifactMissing: Neither store holds it.
            ArtifactDamaged, StoreUnreachable, DiskFull: It could not be fetched.
        """
        if not self.holds_locally(artifact.line, artifact.digest):
            self._fetch(artifact.line, artifact.digest)
        return self._place(artifact.line, artifact.digest) / MODEL

    def get(self, line: str, digest: str) -> Artifact:
        """Return the artifact of a digest.

        Raises:
            ArtifactMissing: The store does not hold it.
        """
        return self.manifest(line, digest).artifact

    def holds(self, line: str, digest: str) -> bool:
        """Return whether the local or the remote store has this artifact."""
        return self.holds_locally(line, digest) or (self.remote is not None and self.remote.holds(line, digest))

    def holds_locally(self, line: str, digest: str) -> bool:
        """Return whether this machine's disk has this artifact."""
        return (self._place(line, digest) / MANIFEST).is_file()

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
        local = {(path.parts[-3], path.parts[-2]) for path in self.folder.glob(f"{line or '*'}/*/{MANIFEST}")}
        remote = set(self.remote.listed(line)) if self.remote and not local_only else set()
        return sorted(local | remote)

    def files(self, artifact: Artifact) -> tuple[FileEntry, ...]:
        """Return the manifest's list of files."""
        return self.manifest(artifact.line, artifact.digest).files

    def facts(self, artifact: Artifact) -> dict[str, object]:
        """Return what the manifest records of how the artifact was made (recipe, versions, coverage)."""
        return self.manifest(artifact.line, artifact.digest).facts

    def manifest(self, line: str, digest: str) -> Manifest:
        """Return an artifact's manifest.

        Raises:
            ArtifactMissing: The store does not hold it.
            ArtifactDamaged: The manifest cannot be read, or is another artifact's.
            StoreUnreachable: It is not on this disk, and the remote store does not answer.
        """
        path = self._place(line, digest) / MANIFEST
        if path.is_file():
            return read_manifest(path.read_bytes(), line, digest, str(path))
        if self.remote and (content := self.remote.manifest(line, digest)):
            return read_manifest(content, line, digest, f"{self.remote.url}/{line}/{digest}")
        raise self._missing(line, digest)

    def created_at(self, artifact: Artifact) -> float:
        """Return when it came into the local store, seconds since 1970; 0 if only the remote store has it."""
        path = self._place(artifact.line, artifact.digest) / MANIFEST
        return path.stat().st_mtime if path.is_file() else 0.0

    def staging(self, line: str, key: str) -> Path:
        """Return a folder to build in, on the store's own disk; the same key finds the same folder after a crash.

        The builder must hold `building(line, key)` meanwhile, or `clean` takes the folder for a leftover.
        """
        folder = self.folder / line / STAGING / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def building(self, line: str, key: str) -> FileLock:
        """Return the lock of a staging folder. A killed process leaves the file, but the lock is free."""
        folder = self.folder / line / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{key}.lock")

    @contextmanager
    def fresh_staging(self, line: str, key: str) -> Iterator[Path]:
        """Yield an empty folder to build in, which is removed if the build fails."""
        folder = self.staging(line, key)
        with self.building(line, key):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def require_free(self, need_bytes: int, what: str) -> None:
        """Check that the store's disk has room before something large is written.

        Args:
            need_bytes: Bytes that will be written.
            what: What will be written, for the message.

        Raises:
            DiskFull: Fewer than `need_bytes` are free.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < need_bytes:
            raise DiskFull(
                f"{what} needs {need_bytes / GIB:.2f} GiB and {free / GIB:.2f} GiB are free.",
                "Free some disk (`weighbridge store gc --dry-run` says what can go), or set WEIGHBRIDGE_HOME to a "
                "larger disk. Finished work is kept.",
                where=str(self.folder),
            )

    def adopt(
        self,
        folder: Path,
        *,
        line: str,
        scheme: str,
        repo: str,
        commit: str,
        facts: dict[str, object] | None = None,
        known_sha256: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Turn a finished folder into an artifact: hash, sign, sync, move into place, copy to the remote store.

        Args:
            folder: Folder with the model's files; it is moved away.
            line, scheme, repo, commit: Identity of the artifact.
            facts: Recorded in the manifest; not part of the digest.
            known_sha256: Path -> hash, of files that this process hashed itself while it wrote them.

        Returns:
            The artifact; the existing one if the content is the same.

        Raises:
            SigningKeyUnusable: The manifest cannot be signed.
            StoreUnreachable: It is in the local store but could not be copied. The same call copies it later.
        """
        files = entries_of(folder, known_sha256 or {})
        artifact = Artifact(
            line=line,
            digest=digest_of(files),
            scheme=scheme,
            repo=repo,
            commit=commit,
            size_bytes=sum(entry.size_bytes for entry in files),
        )
        manifest = Manifest(artifact=artifact, files=files, facts=facts or {})
        with FileLock(self.folder / line / ".lock"):
            if self.holds_locally(line, artifact.digest):
                shutil.rmtree(folder, ignore_errors=True)
                manifest = self.manifest(line, artifact.digest)
            else:
                self._move_in(folder, manifest)
        if self.remote:
            self.remote.put(self._place(line, artifact.digest), manifest)
        return manifest.artifact

    def _move_in(self, folder: Path, manifest: Manifest) -> None:
        artifact = manifest.artifact
        entry = self.folder / artifact.line / STAGING / f"entry-{artifact.digest}"
        shutil.rmtree(entry, ignore_errors=True)
        entry.mkdir(parents=True)
        write_whole(entry / MANIFEST, manifest.as_json())
        manifests.sign(entry / MANIFEST, self._keys)
        folder.rename(entry / MODEL)
        self._publish(entry, artifact)

    def _publish(self, entry: Path, artifact: Artifact) -> None:
        """Sync an entry and rename it into place. From here on the artifact exists."""
        sync(entry)
        entry.rename(self._place(artifact.line, artifact.digest))
        sync_one(self.folder / artifact.line)

    def sign(self, artifact: Artifact) -> None:
        """Sign an artifact that was made before manifests were signed, or by another installation.

        Its files are hashed first, because a signature would make a damaged artifact look right.

        Raises:
            ArtifactMissing, ArtifactDamaged, SigningKeyUnusable: Nothing is signed.
        """
        self.verify(artifact, signed=False)
        manifests.sign(self.path(artifact).parent / MANIFEST, self._keys)
        if self.remote:
            manifest = self.manifest(artifact.line, artifact.digest)
            self.remote.put(self._place(artifact.line, artifact.digest), manifest, overwrite=True)

    def verify(self, artifact: Artifact, progress: Progress | None = None, *, signed: bool = True) -> None:
        """Check the manifest's signature, then hash every file of an artifact again.

        Args:
            artifact: Artifact to check.
            progress: Called with (bytes hashed, bytes in all) after each file.
            signed: Whether a signature is required.

        Raises:
            ArtifactMissing: The store does not hold it.
            ArtifactUnsigned: It has no signature, or one by another key.
            ArtifactDamaged: A file or the manifest is missing, added or altered; it is named.
        """
        folder = self.path(artifact)
        files = self.files(artifact)
        if signed:
            manifests.verify(folder.parent / MANIFEST, artifact.uri, self._keys)
        if wrong := wrong_files(folder, files, progress):
            raise damaged(artifact.line, artifact.digest, ", ".join(wrong), str(folder))

    def signed(self, artifact: Artifact) -> bool:
        """Return whether a signature lies beside the local manifest. `verify` checks it."""
        return manifests.signature_path(self._place(artifact.line, artifact.digest) / MANIFEST).is_file()

    def _fetch(self, line: str, digest: str) -> None:
        """Fetch an artifact from the remote store: whole and hashed, or not at all."""
        content = self.remote.manifest(line, digest) if self.remote else None
        if self.remote is None or content is None:
            raise self._missing(line, digest)
        manifest = read_manifest(content, line, digest, self.remote.url)
        artifact = manifest.artifact
        self.require_free(artifact.size_bytes + SPARE_BYTES, f"{artifact.uri} from {self.remote.url}")
        with self.fresh_staging(line, f"fetch-{digest}") as entry:
            self.remote.fetch(manifest, content, entry)
            with FileLock(self.folder / line / ".lock"):
                if not self.holds_locally(line, digest):
                    self._publish(entry, artifact)

    def _place(self, line: str, digest: str) -> Path:
        return self.folder / line / digest

    def _missing(self, line: str, digest: str) -> ArtifactMissing:
        return ArtifactMissing(
            f"The store does not hold store://{line}/{digest[:12]}….",
            f"Run `weighbridge release {line} --fresh` to make it anew, or restore the store from its backup.",
            where=" and ".join([str(self.folder), *([self.remote.url] if self.remote else [])]),
        )
