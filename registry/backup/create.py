"""Make a backup, of an installation that runs or one that does not."""

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


def back_up(settings: Settings, target: Path, tell: Callable[[str], None] = lambda _: None) -> Contents:
    """Copy the registry, the audit log and the store's index into one file.

    The records are copied first and the log last, so that the log knows of all that the records say.

    Args:
        settings: the installation.
        target: must not exist.
        tell: called with a sentence at each stage.

    Raises:
        OptionInvalid: the target exists, or its folder does not.
        BackupFailed: the database cannot be copied.
        AuditBroken: the audit log does not verify: a copy would pass off what was forged.
        ArtifactDamaged, StoreUnreachable: the store's index cannot be read.
    """
    if target.exists() or not target.parent.is_dir():
        why = "exists already" if target.exists() else "would lie in a folder that does not exist"
        raise OptionInvalid(f"{target} {why}.", "Name a file that does not exist yet.", where=str(target))
    audit = AuditLog.of(settings)
    audit.verify()
    with tempfile.TemporaryDirectory(prefix=".weighbridge-backup-", dir=target.parent) as name:
        folder = Path(name)
        database = database_of(settings)
        tell(f"Copying MLflow's records ({database.kind})")
        database.dump(folder / database.member)
        files = settings.mlflow_artifacts_url or HERE
        if files == HERE and (own := settings.home / MLFLOW_FILES).is_dir():
            tell("Copying MLflow's files")
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
        tell("Packing")
        return write(folder, contents, target)
