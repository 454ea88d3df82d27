"""The file of a backup: a gzipped tar whose last member lists all others with their hashes."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.store.artifact import Artifact, files_of, sha256_of
from weighbridge.errors import BackupDamaged
from weighbridge.files import PRIVATE

LISTING = "backup.json"


class Contents(BaseModel):
    """Contents of a backup."""

    model_config = ConfigDict(frozen=True)

    made_at: str
    """ISO 8601, UTC."""
    weighbridge: str
    """Version of Weighbridge."""
    database: str
    """sqlite or postgresql."""
    mlflow_files: str
    """`in this backup`, or the address of MLflow's files."""
    audit_entries: int
    audit_head: str
    """Hash of the audit log's last entry."""
    artifacts: tuple[Artifact, ...]
    """The store's index, without the weights."""
    sha256: dict[str, str]
    """Name of every other member -> its hash."""


def write(folder: Path, contents: Contents, target: Path) -> Contents:
    """Pack a folder; the file appears whole or not at all.

    Args:
        folder: Its files become the members.
        contents: Contents without hashes.
        target: File to write. Only its owner may read it, because MLflow's records may hold password hashes.

    Returns:
        The contents with hashes.

    Raises:
        OSError: It cannot be written.
    """
    names = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
    contents = contents.model_copy(update={"sha256": {name: sha256_of(path) for name, path in names.items()}})
    draft = target.with_name(f".{target.name}.partial")
    try:
        draft.touch(mode=PRIVATE)
        with tarfile.open(draft, "w:gz", compresslevel=6) as archive:
            for name, path in names.items():
                archive.add(path, name, recursive=False)
            listing = contents.model_dump_json(indent=1).encode()
            member = tarfile.TarInfo(LISTING)
            member.size, member.mode = len(listing), PRIVATE
            archive.addfile(member, io.BytesIO(listing))
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return contents


def read(source: Path) -> Contents:
    """Read the contents of a backup, and check every member.

    Raises:
        BackupDamaged: It is no backup, or a member is damaged.
    """
    with unpacked(source) as (contents, _):
        return contents


@contextmanager
def unpacked(source: Path, beside: Path | None = None) -> Iterator[tuple[Contents, Path]]:
    """Unpack a backup into a temporary folder, and check every member against its hash.

    Args:
        source: The file.
        beside: Parent of the temporary folder, so that its files can be moved; by default the system's.

    Raises:
        BackupDamaged: It is no backup, or a member is missing, altered or unlisted.
    """
    with tempfile.TemporaryDirectory(prefix=".weighbridge-restore-", dir=beside) as name:
        folder = Path(name)
        try:
            with tarfile.open(source, "r:gz") as archive:
                # "data" refuses links out of the folder, devices and absolute names.
                archive.extractall(folder, filter="data")
            contents = Contents.model_validate_json((folder / LISTING).read_bytes())
        except (tarfile.TarError, EOFError, OSError, ValidationError) as error:
            raise _damaged(source, f"it cannot be read: {str(error).splitlines()[0][:200]}") from error
        (folder / LISTING).unlink()
        found = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files_of(folder)}
        different = {name for name, _ in found.items() ^ contents.sha256.items()}
        if different:
            raise _damaged(source, f"{min(different)} is not what was written")
        yield contents, folder


def _damaged(source: Path, why: str) -> BackupDamaged:
    return BackupDamaged(
        f"This backup is damaged, or is none: {why}.", "Take another backup; nothing was changed.", where=str(source)
    )
