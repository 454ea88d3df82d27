"""The artifact store: a folder of models, each named by its content.

`store://<line>/<sha256>` is the SHA-256 of the manifest's list of files, so two identical models are one
and an altered model is another. A model is built in a staging folder on the same disk, synced, and
renamed into place: it is there whole or not at all. Beside the model's files lies `manifest.json` with
what they are and where they came from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from weighbridge.errors import ArtifactDamaged, ArtifactMissing, DiskFull
from weighbridge.settings import load_settings

GIB = 2**30
BLOCK_BYTES = 4 * 2**20
MODEL = "model"
MANIFEST = "manifest.json"


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


class Store:
    """The artifact store in a local folder.

    Args:
        folder: the store's root; the installation's by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or load_settings().store_folder

    def path(self, artifact: Artifact) -> Path:
        """Folder with the model's files.

        Raises:
            ArtifactMissing: the store does not hold it.
        """
        return self._entry(artifact.line, artifact.digest) / MODEL

    def get(self, line: str, digest: str) -> Artifact:
        """The artifact of a digest.

        Raises:
            ArtifactMissing: the store does not hold it.
        """
        manifest = json.loads((self._entry(line, digest) / MANIFEST).read_text())
        return Artifact.model_validate(manifest["artifact"])

    def holds(self, line: str, digest: str) -> bool:
        """Whether the store has this artifact."""
        return (self.folder / line / digest / MANIFEST).is_file()

    def artifacts(self, line: str | None = None) -> list[Artifact]:
        """All artifacts, or a line's, in no particular order."""
        paths = self.folder.glob(f"{line or '*'}/*/{MANIFEST}")
        return [Artifact.model_validate(json.loads(path.read_text())["artifact"]) for path in paths]

    def files(self, artifact: Artifact) -> tuple[FileEntry, ...]:
        """The manifest's list of files."""
        manifest = json.loads((self._entry(artifact.line, artifact.digest) / MANIFEST).read_text())
        return tuple(FileEntry.model_validate(entry) for entry in manifest["files"])

    def facts(self, artifact: Artifact) -> dict[str, object]:
        """What was written down when the artifact was made (recipe, versions, coverage)."""
        manifest = json.loads((self._entry(artifact.line, artifact.digest) / MANIFEST).read_text())
        return dict(manifest["facts"])

    def staging(self, line: str, key: str) -> Path:
        """A folder to build in, on the store's own disk; the same key finds the same folder after a crash."""
        folder = self.folder / line / ".staging" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def fresh_staging(self, line: str, key: str) -> Iterator[Path]:
        """An empty folder to build in, removed again when the building fails."""
        folder = self.folder / line / ".staging" / key
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def require_free(self, need_bytes: int, what: str) -> None:
        """Check the store's disk before something large is written.

        Raises:
            DiskFull: fewer than `need_bytes` are free.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < need_bytes:
            raise DiskFull(
                f"{what} needs {need_bytes / GIB:.2f} GiB and {free / GIB:.2f} GiB are free.",
                "Free some disk, or set WEIGHBRIDGE_HOME to a larger one; what is done so far is kept.",
                where=str(self.folder),
            )

    def adopt(
        self, folder: Path, *, line: str, scheme: str, repo: str, commit: str, facts: dict[str, object] | None = None
    ) -> Artifact:
        """Make an artifact of a finished folder: hash, sync, move into place.

        Args:
            folder: holds the model's files; it is moved away.
            line, scheme, repo, commit: what the artifact is.
            facts: kept in the manifest; not part of the digest.

        Returns:
            The artifact; the one that is there already when the content is the same.
        """
        entries = sorted(_entries(folder), key=lambda entry: entry.path)
        listing = json.dumps([entry.model_dump() for entry in entries], sort_keys=True, separators=(",", ":"))
        artifact = Artifact(
            line=line,
            digest=hashlib.sha256(listing.encode()).hexdigest(),
            scheme=scheme,
            repo=repo,
            commit=commit,
            size_bytes=sum(entry.size_bytes for entry in entries),
        )
        with FileLock(self.folder / line / ".lock"):
            return self._move_in(folder, artifact, entries, facts or {})

    def _move_in(
        self, folder: Path, artifact: Artifact, entries: list[FileEntry], facts: dict[str, object]
    ) -> Artifact:
        line = artifact.line
        if self.holds(line, artifact.digest):
            shutil.rmtree(folder, ignore_errors=True)
            return self.get(line, artifact.digest)
        entry_folder = self.folder / line / ".staging" / f"entry-{artifact.digest}"
        shutil.rmtree(entry_folder, ignore_errors=True)
        entry_folder.mkdir(parents=True)
        manifest = {
            "artifact": artifact.model_dump(),
            "files": [entry.model_dump() for entry in entries],
            "facts": facts,
        }
        (entry_folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
        folder.rename(entry_folder / MODEL)
        _sync(entry_folder)
        entry_folder.rename(self.folder / line / artifact.digest)
        _sync_folder(self.folder / line)
        return artifact

    def verify(self, artifact: Artifact) -> None:
        """Hash every file of an artifact again.

        Raises:
            ArtifactMissing: the store does not hold it.
            ArtifactDamaged: a file is missing, added or altered; it is named.
        """
        folder = self.path(artifact)
        expected = {entry.path: entry for entry in self.files(artifact)}
        present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        damaged = sorted(set(expected) ^ present) or [
            path for path, entry in expected.items() if sha256_of(folder / path) != entry.sha256
        ]
        if damaged:
            raise ArtifactDamaged(
                f"{artifact.uri} is no longer what was weighed: {', '.join(damaged)}.",
                f"Remove the artifact's folder and run `weighbridge release {artifact.line} --fresh`.",
                where=str(folder),
            )

    def _entry(self, line: str, digest: str) -> Path:
        if not self.holds(line, digest):
            raise ArtifactMissing(
                f"The store does not hold store://{line}/{digest[:12]}….",
                f"Run `weighbridge release {line} --fresh` to make it again, or restore the store from its backup.",
                where=str(self.folder),
            )
        return self.folder / line / digest


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(folder: Path) -> Iterator[FileEntry]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield FileEntry(
                path=path.relative_to(folder).as_posix(), size_bytes=path.stat().st_size, sha256=sha256_of(path)
            )


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
