"""Make a backup of an installation, whether its stack runs or not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from registry.audit import NOTHING, AuditLog
from registry.backup.archive import Contents, write
from registry.backup.databases import Sqlite, database_of
from registry.store import Store
from weighbridge import __version__
from weighbridge.errors import OptionInvalid
from weighbridge.settings import Settings

MLFLOW_FILES = "mlflow/artifacts"
AUTH_FILE = "mlflow/auth.db"
AUDIT_FILE = "audit/log.jsonl"
HERE = "in this backup"


def back_up(settings: Settings, target: Path, report: Callable[[str], None] = lambda _: None) -> Contents:
    """Copy the registry, the audit log and the store's index into one file.

    The records are copied first and the log last, so that the log covers every change in the records.

    Args:
        settings: Settings of the installation.
        target: File to write; it must not exist.
        report: Called with a sentence at each stage.

    Raises:
        OptionInvalid: The target exists, or its folder does not.
        BackupFailed: The database cannot be copied.
        AuditBroken: The audit log does not verify; a backup would make a forged log look right.
        ArtifactDamaged, StoreUnreachable: The store's index cannot be read.
    """
    if target.exists() or not target.parent.is_dir():
        why = "exists already" if target.exists() else "would lie in a folder that does not exist"
        raise OptionInvalid(f"{target} {why}.", "Name a file that does not exist yet.", where=str(target))
    audit = AuditLog.of(settings)
    audit.verify()
    with tempfile.TemporaryDirectory(prefix=".weighbridge-backup-", dir=target.parent) as name:
        folder = Path(name)
        database = database_of(settings)
        report(f"Copying MLflow's records ({database.kind})")
        database.dump(folder / database.member)
        files = settings.mlflow_artifacts_url or HERE
        if files == HERE and (own := settings.home / MLFLOW_FILES).is_dir():
            report("Copying MLflow's files")
            shutil.copytree(own, folder / MLFLOW_FILES)
        if (auth := settings.home / AUTH_FILE).is_file():
            Sqlite(auth).dump(folder / AUTH_FILE)
        artifacts = tuple(Store.of(settings).artifacts())
        entries = audit.copy(folder / AUDIT_FILE)
        last = entries[-1] if entries else None
        contents = Contents(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            weighbridge=__version__,
            database=database.kind,
            mlflow_files=files,
            audit_entries=len(entries),
            audit_head=last.hash if last else NOTHING,
            artifacts=artifacts,
            sha256={},
        )
        report("Packing")
        return write(folder, contents, target)
