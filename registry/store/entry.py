"""The folder of one artifact in the local store: its manifest, the manifest's signature, and the model's files."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from registry.signing import KeyPair, manifests, read_statement, sign_statement
from registry.store.artifact import (
    DIGEST,
    LINE,
    MANIFEST,
    MODEL,
    SIGNATURE,
    SMALL_BYTES,
    STATEMENT,
    Manifest,
    damaged,
    read_manifest,
)
from registry.store.check import Progress, wrong_files
from registry.store.provenance import PREDICATE_TYPE, Provenance
from registry.store.tree import kind_of, open_file, opened_folder, require_resources, shown
from weighbridge.errors import ArtifactDamaged, SignatureRefused
from weighbridge.files import write_whole


@dataclass(frozen=True, slots=True)
class Entry:
    """An artifact's folder, in place or in staging. Nothing here follows a link below the store's root."""

    root: Path
    """Of the store. It may be a link: whoever configures it chooses the disk."""
    line: str
    digest: str
    staged_as: tuple[str, ...] = ()
    """Names of the folder below the line's, if it is not in place."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names that lead from the root to the folder."""
        return (self.line, *(self.staged_as or (self.digest,)))

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.root.joinpath(*self.names)

    @property
    def model(self) -> Path:
        """The folder of the model's files."""
        return self.folder / MODEL

    @property
    def can_exist(self) -> bool:
        """Whether line and digest are such that they name a folder of the store, and none elsewhere."""
        return bool(LINE.fullmatch(self.line) and DIGEST.fullmatch(self.digest))

    def exists(self) -> bool:
        """Return whether there is a manifest, or something in its place."""
        return self.can_exist and os.path.lexists(self.folder / MANIFEST)

    def about(self, name: str = MANIFEST) -> os.stat_result | None:
        """Return what the file system says of a small file; None if it is missing."""
        try:
            return os.lstat(self.folder / name)
        except OSError:
            return None

    def read(self, name: str = MANIFEST) -> bytes:
        """Read a small file beside the model.

        Raises:
            ArtifactDamaged: It is missing, too large or no regular file, or its folder is a link.
        """
        try:
            with opened_folder(self.root, *self.names) as folder, open_file(folder, name) as file:
                content = file.read(SMALL_BYTES + 1)
        except OSError as error:
            require_resources(error)
            raise self.damaged(self._why_unreadable(name)) from None
        if len(content) > SMALL_BYTES:
            raise self.damaged(f"{name} is too large")
        return content

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            ArtifactDamaged: It cannot be read, or is another artifact's.
        """
        return read_manifest(self.read(), self.line, self.digest, str(self.folder / MANIFEST))

    def signed_manifest(self, keys: KeyPair) -> Manifest:
        """Read the manifest, and check its signature and the statement of how the artifact was made.

        Raises:
            ArtifactUnsigned: It has no signature, or one by another key.
            ArtifactDamaged: It cannot be read, or was altered.
        """
        content = self.read()
        manifest = read_manifest(content, self.line, self.digest, str(self.folder / MANIFEST))
        signature = self.read(SIGNATURE) if self.about(SIGNATURE) else None
        manifests.verify(content, signature, self.folder / MANIFEST, manifest.artifact.uri, keys)
        if manifest.provenance is not None:
            self._verify_statement(manifest.provenance, keys)
        return manifest

    def verify(
        self, keys: KeyPair, progress: Progress | None = None, *, signed: bool = True, reread: bool = False
    ) -> Manifest:
        """Check the manifest's signature, and that the folder holds the manifest's files and nothing else.

        Args:
            keys: Whose signature counts.
            progress: Called with (bytes checked, bytes in all) after each file.
            signed: Whether a signature is required.
            reread: Whether to hash files that this process hashed before.

        Raises:
            ArtifactUnsigned: It has no signature, or one by another key.
            ArtifactDamaged: A file or the manifest is missing, added, altered or no file; it is named.
        """
        manifest = self.signed_manifest(keys) if signed else self.manifest()
        try:
            if beside := self._beside():
                raise self.damaged(_listed(beside))
            with opened_folder(self.root, *self.names, MODEL) as folder:
                wrong = wrong_files(folder, manifest.files, progress, reread=reread)
        except OSError as error:
            require_resources(error)
            raise self.damaged(self._why_unreadable(MODEL)) from None
        if wrong:
            raise self.damaged(_listed(wrong))
        return manifest

    def _verify_statement(self, recorded: Provenance, keys: KeyPair) -> None:
        """Check that the signed statement of how the artifact was made is ours, and says what its manifest says."""
        try:
            said = read_statement(keys, self.read(STATEMENT), predicate_type=PREDICATE_TYPE, subject_sha256=self.digest)
        except SignatureRefused as error:
            raise self.damaged(f"{STATEMENT}: {error.what}") from None
        if said != recorded.model_dump(mode="json"):
            raise self.damaged(f"{STATEMENT} says something else than {MANIFEST}")

    def sign(self, keys: KeyPair) -> None:
        """Sign the manifest and, where it tells how the artifact was made, a statement of that.

        Raises:
            SigningKeyUnusable: There is no key to sign with.
        """
        manifest = self.manifest()
        if manifest.provenance is not None:
            envelope = sign_statement(
                keys,
                predicate_type=PREDICATE_TYPE,
                subject={manifest.artifact.uri: self.digest},
                predicate=manifest.provenance.model_dump(mode="json"),
            )
            write_whole(self.folder / STATEMENT, envelope)
        manifests.sign(self.folder / MANIFEST, keys)

    def _beside(self) -> list[str]:
        """List what lies beside the model and is no file. Further files may: a second signature, a writer's draft."""
        with opened_folder(self.root, *self.names) as folder, os.scandir(folder) as found:
            return sorted(
                f"{shown(entry.name)} beside {MODEL}"
                for entry in found
                if entry.name != MODEL and not entry.is_file(follow_symlinks=False)
            )

    def damaged(self, why: str) -> ArtifactDamaged:
        """Make the error for this artifact."""
        return damaged(self.line, self.digest, why, str(self.folder))

    def _why_unreadable(self, name: str) -> str:
        """Find the link or whatever else stands in the way of a file beside the model."""
        place = self.root
        for step in (*self.names, name):
            place = place / step
            try:
                about = os.lstat(place)
            except OSError:
                return f"{step} is missing"
            expected = stat.S_ISDIR if step != name or name == MODEL else stat.S_ISREG
            if not expected(about.st_mode):
                return f"{step} is a {kind_of(about)}" if not stat.S_ISREG(about.st_mode) else f"{step} is a file"
        return f"{name} cannot be read"


def _listed(wrong: list[str], most: int = 10) -> str:
    return ", ".join(wrong[:most]) + (f" and {len(wrong) - most} more" if len(wrong) > most else "")
