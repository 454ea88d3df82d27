"""What a backup with production holds beside the records, and what its weights are."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry.store import Artifact, FileEntry

ROUTES_FILE = "gateway/routes.json"
RESTORED_ROUTES = "gateway/restored-routes.json"
"""Where a restore puts the routes: their engines do not run here, so `up` starts these before it gives them traffic."""
ROOT = "root"
"""Folder of the members that belong below the project's root: lines and suites."""
STORE = "store"
"""Folder of the members beside the weights: manifests and signatures."""
WATCH = "watch"


class ServedVersion(BaseModel):
    """A version that had traffic, or was kept warm, when the backup was made."""

    model_config = ConfigDict(frozen=True)

    version: str
    serves: bool
    """Whether it had the most traffic; otherwise it was kept warm."""
    artifact: Artifact


class Weights(BaseModel):
    """One artifact's files, in the order in which they follow the archive."""

    model_config = ConfigDict(frozen=True)

    artifact: Artifact
    files: tuple[FileEntry, ...]


class Production(BaseModel):
    """What serves, and what serving needs."""

    model_config = ConfigDict(frozen=True)

    versions: tuple[ServedVersion, ...]
    files: dict[str, Path]
    """Files to copy, by the names of their members."""

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Each artifact once: two versions may be one."""
        return tuple({served.artifact.digest: served.artifact for served in self.versions}.values())

    @property
    def weights_bytes(self) -> int:
        """Size of all weights."""
        return sum(artifact.size_bytes for artifact in self.artifacts)


class Forecast(BaseModel):
    """What a backup would hold, and how large it would be."""

    model_config = ConfigDict(frozen=True)

    versions: tuple[ServedVersion, ...] = ()
    secrets: tuple[str, ...] = ()
    """Paths below the home."""
    files: tuple[str, ...] = ()
    """Lines, suites and the watch's ledgers."""
    weights_bytes: int = 0
    records_bytes: int
    """Before packing."""
    free_bytes: int

    @property
    def need_bytes(self) -> int:
        """Most that is on the disk at once: the records are copied, packed, and copied into the file."""
        return self.weights_bytes + 3 * self.records_bytes
