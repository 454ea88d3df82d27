"""Make a backup of an installation, whether its stack runs or not."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from registry.audit import NOTHING, AuditLog
from registry.backup.archive import Contents, pack
from registry.backup.container import seal
from registry.backup.databases import Sqlite, database_of
from registry.backup.production import STORE, Forecast, Production, Weights
from registry.backup.secrets import encrypt, require_strong, secret_files
from registry.backup.weights import Count, Progress, no_progress, write_weights
from registry.signing import KeyPair
from registry.store import Store
from weighbridge import __version__
from weighbridge.errors import ArtifactMissing, DiskFull, OptionInvalid
from weighbridge.files import naming_a_full_disk
from weighbridge.settings import Settings
from weighbridge.units import GIB

MLFLOW_FILES = "mlflow/artifacts"
AUTH_FILE = "mlflow/auth.db"
AUDIT_FILE = "audit/log.jsonl"
HERE = "in this backup"
PREFIX = ".weighbridge-backup-"
LOCK = ".lock"
"""File in a temporary folder, locked by the process that works in it."""
FORGOTTEN_SECONDS = 86_400
"""Age at which a temporary folder without a lock, of an older Weighbridge, counts as one that a kill left behind."""


def back_up(
    settings: Settings,
    target: Path,
    report: Callable[[str], None] = lambda _: None,
    *,
    production: Production | None = None,
    passphrase: str = "",
    progress: Progress = no_progress,
) -> Contents:
    """Copy the registry, the audit log and the store's index into one signed file; with production, what serves too.

    The records are copied first and the log last, so that the log covers every change in the records.

    Args:
        settings: Settings of the installation.
        target: File to write; it must not exist.
        report: Called with a sentence at each stage.
        production: What serves, if it is to be in the backup.
        passphrase: Encrypts the secrets, which only a backup with production holds.
        progress: Called with (bytes written, bytes in all) while weights are written.

    Raises:
        OptionInvalid: The target exists, its folder does not, or others could replace it there.
        PassphraseUnusable: The passphrase is too short.
        BackupFailed: The database cannot be copied.
        DiskFull: The disk is full, or would be. Nothing is left of the backup.
        AuditBroken: The audit log does not verify; a backup would make a forged log look right.
        ArtifactDamaged, ArtifactMissing, ArtifactUnsigned, StoreUnreachable: The store's index, or the weights of what
            serves, cannot be read.
        SigningKeyUnusable, SigningKeyMissing, SigningKeyChanged: There is no key to sign it with.
    """
    _check_target(settings, target)
    if production is not None:
        require_strong(passphrase)
        _require_room(forecast(settings, target, production), target)
    audit = AuditLog.of(settings)
    audit.verify()
    store, keys = Store.of(settings), KeyPair.of(settings)
    with naming_a_full_disk(target), temporary_folder(target.parent, PREFIX) as temporary:
        folder = temporary / "members"
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
        weights = _copy_production(store, production, folder) if production else ()
        artifacts = tuple(store.artifacts())
        entries = audit.copy(folder / AUDIT_FILE)
        last = entries[-1] if entries else None
        # No rotation meanwhile: private key and ring belong together.
        with keys.lock() if production else nullcontext():
            secret = secret_files(settings) if production else {}
            encrypted = encrypt(secret, passphrase) if production else b""
        contents = Contents(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            weighbridge=__version__,
            database=database.kind,
            mlflow_files=files,
            audit_entries=len(entries),
            audit_head=last.hash if last else NOTHING,
            artifacts=artifacts,
            versions=production.versions if production else (),
            weights=weights,
            secrets=tuple(secret),
            secrets_sha256=hashlib.sha256(encrypted).hexdigest() if production else "",
            sha256={},
        )
        report("Packing the records")
        contents = pack(folder, contents, archive := temporary / "archive")
        said = contents.model_dump(include={"made_at", "weighbridge", "audit_entries", "audit_head"})
        if production is None:
            seal(archive, target, keys, said)
        else:
            report(f"Writing the weights, {production.weights_bytes / GIB:.2f} GiB")
            count = Count(production.weights_bytes, progress)
            seal(archive, target, keys, said, encrypted, lambda out: write_weights(store, weights, out, count))
    return contents


def forecast(settings: Settings, target: Path, production: Production | None) -> Forecast:
    """Say what a backup would hold, and how large it would be; nothing is written.

    Args:
        settings: Settings of the installation.
        target: The file that would be written.
        production: What serves, if it is to be in the backup.

    Raises:
        OptionInvalid: The target cannot be written there.
    """
    _check_target(settings, target)
    records = [settings.home / name for name in ("mlflow/mlflow.db", AUTH_FILE, AUDIT_FILE)]
    if settings.mlflow_artifacts_url is None:
        records += [Path(root, name) for root, _, names in os.walk(settings.home / MLFLOW_FILES) for name in names]
    files = production.files if production else {}
    return Forecast(
        versions=production.versions if production else (),
        secrets=tuple(secret_files(settings)) if production else (),
        files=tuple(files),
        weights_bytes=production.weights_bytes if production else 0,
        records_bytes=sum(path.lstat().st_size for path in (*records, *files.values()) if path.is_file()),
        free_bytes=shutil.disk_usage(target.parent).free,
    )


def _require_room(needed: Forecast, target: Path) -> None:
    if needed.free_bytes < needed.need_bytes:
        raise DiskFull(
            f"The backup needs {needed.need_bytes / GIB:.2f} GiB while it is made; "
            f"{needed.free_bytes / GIB:.2f} GiB are free.",
            "Name a file on a larger disk, or leave out --with-previous. Nothing was written.",
            where=str(target),
        )


def _copy_production(store: Store, production: Production, folder: Path) -> tuple[Weights, ...]:
    """Copy the small files of production, and list the weights that follow the archive."""
    for name, path in production.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    weights = []
    for artifact in production.artifacts:
        if not store.holds_locally(artifact.line, artifact.digest):
            raise ArtifactMissing(
                f"{artifact.uri} serves {artifact.line}, and its weights are not on this disk.",
                f"Run `weighbridge store verify {artifact.short}`, which fetches it from the remote store.",
                where=str(store.folder),
            )
        with store.handing_on(artifact) as (manifest, _):
            weights.append(Weights(artifact=artifact, files=manifest.files))
        target = folder / STORE / artifact.line / artifact.digest
        target.mkdir(parents=True)
        for name, path in store.beside(artifact).items():
            shutil.copyfile(path, target / name)
    return tuple(weights)


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a temporary folder that the next call knows as left behind if this process is killed."""
    sweep(parent, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as name, Path(name, LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(name)


def sweep(folder: Path, prefix: str) -> None:
    """Remove the temporary folders that kills have left in a folder: they hold copies of databases, and weights."""
    for path in folder.glob(f"{prefix}*"):
        state = path.lstat()
        if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and _is_left(path, state):
            shutil.rmtree(path, ignore_errors=True)


def _is_left(path: Path, state: os.stat_result) -> bool:
    try:
        with (path / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - state.st_mtime > FORGOTTEN_SECONDS
    return True


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
