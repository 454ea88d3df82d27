"""Make a backup of an installation, whether its stack runs or not."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from registry.audit import NOTHING, AuditLog
from registry.backup.archive import Contents, pack
from registry.backup.container import seal
from registry.backup.databases import Sqlite, database_of
from registry.signing import KeyPair
from registry.store import Store
from weighbridge import __version__
from weighbridge.errors import OptionInvalid
from weighbridge.files import naming_a_full_disk
from weighbridge.settings import Settings

MLFLOW_FILES = "mlflow/artifacts"
AUTH_FILE = "mlflow/auth.db"
AUDIT_FILE = "audit/log.jsonl"
HERE = "in this backup"
PREFIX = ".weighbridge-backup-"
FORGOTTEN_SECONDS = 86_400
"""Age at which a temporary folder counts as one that a kill left behind."""


def back_up(settings: Settings, target: Path, report: Callable[[str], None] = lambda _: None) -> Contents:
    """Copy the registry, the audit log and the store's index into one signed file.

    The records are copied first and the log last, so that the log covers every change in the records.

    Args:
        settings: Settings of the installation.
        target: File to write; it must not exist.
        report: Called with a sentence at each stage.

    Raises:
        OptionInvalid: The target exists, its folder does not, or others could replace it there.
        BackupFailed: The database cannot be copied.
        DiskFull: The disk is full. Nothing is left of the backup.
        AuditBroken: The audit log does not verify; a backup would make a forged log look right.
        ArtifactDamaged, StoreUnreachable: The store's index cannot be read.
        SigningKeyUnusable, SigningKeyMissing, SigningKeyChanged: There is no key to sign it with.
    """
    _check_target(settings, target)
    audit = AuditLog.of(settings)
    audit.verify()
    sweep(target.parent, PREFIX)
    with naming_a_full_disk(target), tempfile.TemporaryDirectory(prefix=PREFIX, dir=target.parent) as name:
        folder = Path(name, "members")
        folder.mkdir(mode=0o700)
        database = database_of(settings)
        report(f"Copying MLflow's records ({database.kind})")
        database.dump(folder / database.member)
        files = settings.mlflow_artifacts_url or HERE
        if files == HERE and (own := settings.home / MLFLOW_FILES).is_dir():
            report("Copying MLflow's files")
            for left_out in _copy_files(own, folder / MLFLOW_FILES):
                report(f"Left out, because it is no regular file: {left_out}")
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
        contents = pack(folder, contents, archive := Path(name, "archive"))
        said = contents.model_dump(include={"made_at", "weighbridge", "audit_entries", "audit_head"})
        seal(archive, target, KeyPair.of(settings), said)
    return contents


def sweep(folder: Path, prefix: str) -> None:
    """Remove the temporary folders that kills have left in a folder: they hold copies of databases."""
    for path in folder.glob(f"{prefix}*"):
        state = path.lstat()
        forgotten = time.time() - state.st_mtime > FORGOTTEN_SECONDS
        if forgotten and stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)


def _check_target(settings: Settings, target: Path) -> None:
    folder, why = target.parent, ""
    if os.path.lexists(target):
        why = "exists already"
    elif not folder.is_dir():
        why = "would lie in a folder that does not exist"
    else:
        real = folder.resolve()
        mode = real.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            why = "would lie in a folder where everybody may replace it"
        elif any(real.is_relative_to((settings.home / part).resolve()) for part in ("mlflow", "audit", "store")):
            why = "would lie among the files that it is a copy of"
    if why:
        raise OptionInvalid(f"{target} {why}.", "Name a new file in a folder of your own.", where=str(target))


def _copy_files(source: Path, target: Path) -> list[Path]:
    """Copy the regular files below a folder, while MLflow may add and remove some; return what is none."""
    left_out = []
    for root, folders, names in os.walk(source):
        here = target / Path(root).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        left_out += [link for name in folders if (link := Path(root, name)).is_symlink()]
        for name in names:
            try:
                descriptor = os.open(Path(root, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                continue
            except OSError:
                left_out.append(Path(root, name))
                continue
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    left_out.append(Path(root, name))
                    continue
                with (here / name).open("xb") as out:
                    shutil.copyfileobj(file, out, 1 << 20)
    return left_out
