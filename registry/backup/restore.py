"""Restore a backup. Everything is checked before anything is replaced, and replaced files are kept aside."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry.audit import AuditLog
from registry.backup.archive import Contents, unpacked
from registry.backup.create import AUDIT_FILE, AUTH_FILE, MLFLOW_FILES
from registry.backup.databases import database_of
from registry.store import Artifact, Store
from weighbridge.errors import BackupDamaged, BackupFailed
from weighbridge.settings import Settings


class Restored(BaseModel):
    """Result of a restore, or of a dry run."""

    model_config = ConfigDict(frozen=True)

    contents: Contents
    replaced: tuple[str, ...]
    """Names of what was replaced, and now lies in `aside`."""
    aside: str
    missing: tuple[Artifact, ...]
    """Artifacts of the backup whose weights this store does not hold."""


def restore(
    settings: Settings,
    source: Path,
    *,
    replace: bool = False,
    dry_run: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Restored:
    """Put a backup's registry and audit log into an installation whose stack is down.

    Args:
        settings: Settings of the installation.
        source: The backup.
        replace: Whether existing records are moved aside. Otherwise they are a reason to refuse.
        dry_run: Check everything and change nothing.
        report: Called with a sentence at each stage.

    Raises:
        BackupDamaged: A member is altered or missing, or its audit log does not verify.
        BackupFailed: The installation has records and `replace` is not set, or it keeps them in another kind of
            database than the backup.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    aside = settings.home / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    report("Checking the backup")
    with unpacked(source, settings.home) as (contents, folder):
        _check_audit(contents, folder, source)
        database = database_of(settings)
        if database.kind != contents.database:
            raise BackupFailed(
                f"The backup's records are of {contents.database}, and this installation keeps its in {database.kind}.",
                "Set WEIGHBRIDGE_MLFLOW_BACKEND_URI to a database of that kind, or unset it for SQLite.",
                where=str(source),
            )
        members = [name for name in (MLFLOW_FILES, AUTH_FILE, AUDIT_FILE) if (folder / name).exists()]
        existing = [name for name in members if (settings.home / name).exists()]
        if database.has_records():
            existing.insert(0, database.member)
        if existing and not (replace or dry_run):
            raise BackupFailed(
                f"This installation has records of its own: {', '.join(existing)}.",
                "Give --replace to move them aside, or name an empty home in WEIGHBRIDGE_HOME.",
                where=str(settings.home),
            )
        if not dry_run:
            report("Putting the records back")
            database.load(folder / database.member, aside / "mlflow")
            for name in members:
                _put(folder / name, settings.home / name, aside / name)
    store = Store.of(settings)
    missing = tuple(artifact for artifact in contents.artifacts if not store.holds(artifact.line, artifact.digest))
    return Restored(contents=contents, replaced=tuple(existing), aside=str(aside) if existing else "", missing=missing)


def _check_audit(contents: Contents, folder: Path, source: Path) -> None:
    last = AuditLog((folder / AUDIT_FILE).parent).verify()
    if (last.number if last else 0) != contents.audit_entries or (last and last.hash != contents.audit_head):
        raise BackupDamaged(
            "The backup's audit log is not the one that was written.",
            "Take another backup; nothing was changed.",
            where=str(source),
        )


def _put(new: Path, place: Path, aside: Path) -> None:
    if place.exists():
        aside.parent.mkdir(parents=True, exist_ok=True)
        place.rename(aside)
    place.parent.mkdir(parents=True, exist_ok=True)
    new.rename(place)
