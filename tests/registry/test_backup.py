"""Backup and restore of releases, approvals and the audit log in one file."""

from __future__ import annotations

import importlib
import io
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.audit import AuditLog
from registry.backup import back_up, read, restore
from registry.models.records import ReleaseRecord
from registry.models.registry import Registry
from registry.store import Store
from tests.registry.store_support import make_artifact
from weighbridge.errors import AuditBroken, BackupDamaged, BackupFailed, OptionInvalid
from weighbridge.settings import Settings, load_settings

Make = Callable[..., ReleaseRecord]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """Switch to an installation by name; a new one is empty."""

    def go(name: str) -> Settings:
        monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / name))
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        return load_settings()

    return go


@pytest.fixture
def installation(home: Callable[[str], Settings], empty_database: Path, release: Make) -> Settings:
    """An installation with a release, an approved version in production, files and an artifact."""
    settings = home("old")
    (settings.home / "mlflow" / "artifacts").mkdir(parents=True)
    shutil.copy(empty_database, settings.home / "mlflow" / "mlflow.db")
    (settings.home / "mlflow" / "artifacts" / "report.html").write_text("<p>report</p>")
    registry = registry_of(settings)
    registry.record_release(release())
    registry.approve("toy", 1, "better on words", "anna")
    registry.set_production("toy", 1)
    make_artifact(Store.of(settings))
    return settings


def registry_of(settings: Settings) -> Registry:
    return Registry(settings.mlflow_backend)


def test_a_restore_recovers_versions_files_aliases_and_the_log(
    installation: Settings, home: Callable[[str], Settings], tmp_path: Path
) -> None:
    written = back_up(installation, tmp_path / "backup.tar.gz")
    assert (tmp_path / "backup.tar.gz").stat().st_mode & 0o077 == 0, "readable by its owner only"
    assert not list(tmp_path.glob(".*")), "no temporary file is left"
    assert read(tmp_path / "backup.tar.gz") == written

    done = restore(new := home("new"), tmp_path / "backup.tar.gz")
    production = registry_of(new).production("toy")
    assert production is not None and production.version == 1
    assert (new.home / "mlflow" / "artifacts" / "report.html").read_text() == "<p>report</p>"
    last = AuditLog.of(new).verify(written.audit_head)
    assert last is not None and [entry.action for entry in AuditLog.of(new).entries()] == [
        "approve",
        "production",
    ]
    assert [artifact.line for artifact in done.missing] == ["line"], (
        "a backup has no weights, and the restore lists the missing artifacts"
    )
    assert done.replaced == ()
    assert AuditLog.of(new).append("previous", "toy", None).number == last.number + 1


def test_a_backup_during_writes_is_consistent(
    installation: Settings, home: Callable[[str], Settings], tmp_path: Path
) -> None:
    stop, numbers = threading.Event(), iter(range(1, 10_000))
    registry = registry_of(installation)

    def write() -> None:
        while not stop.is_set():
            registry.set_state("toy", 1, "serving", f"number {next(numbers)}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        backups = [back_up(installation, tmp_path / f"{number}.tar.gz") for number in range(3)]
    finally:
        stop.set()
        writer.join()
    for number, written in enumerate(backups):
        new = home(f"new-{number}")
        restore(new, tmp_path / f"{number}.tar.gz")
        entries = list(AuditLog.of(new).entries())
        assert len(entries) == written.audit_entries
        recorded = int(registry_of(new).version("toy", 1).state_reason.removeprefix("number ") or 0)
        logged = int(entries[-1].reason.removeprefix("number ") or 0)
        # A change is written to MLflow first and to the log right after it; a backup copies the log last.
        assert 0 <= recorded <= logged + 1


@pytest.mark.parametrize("how", ["a byte", "cut off", "no archive", "a member gone", "a member more", "another head"])
def test_a_damaged_backup_is_refused_and_changes_nothing(
    installation: Settings, home: Callable[[str], Settings], tmp_path: Path, how: str
) -> None:
    good, bad = tmp_path / "good.tar.gz", tmp_path / "bad.tar.gz"
    back_up(installation, good)
    content = bytearray(good.read_bytes())
    if how == "a byte":
        content[len(content) // 2] ^= 1
    elif how == "cut off":
        del content[len(content) // 2 :]
    elif how == "no archive":
        content = bytearray(b"hello")
    bad.write_bytes(content)
    if how in ("a member gone", "a member more", "another head"):
        repack(good, bad, how)
    new = home("new")
    with pytest.raises(BackupDamaged):
        restore(new, bad)
    assert [path.name for path in new.home.iterdir()] == []


def repack(good: Path, bad: Path, how: str) -> None:
    """Write a valid archive with changed content."""
    with tarfile.open(good) as old, tarfile.open(bad, "w:gz") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            data = content.read()
            if how == "a member gone" and member.name == "audit/log.jsonl":
                continue
            if how == "another head" and member.name == "backup.json":
                data = data.replace(b'"audit_entries": 2', b'"audit_entries": 3')
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
        if how == "a member more":
            new.addfile(tarfile.TarInfo("gateway/routes.json"))


def test_existing_records_are_replaced_only_with_replace(installation: Settings, tmp_path: Path) -> None:
    back_up(installation, backup := tmp_path / "backup.tar.gz")
    registry_of(installation).set_production("toy", 1)
    with pytest.raises(BackupFailed, match="records of its own"):
        restore(installation, backup)
    tried = restore(installation, backup, dry_run=True)
    assert "mlflow/mlflow.db" in tried.replaced and not Path(tried.aside).exists()
    assert len(list(AuditLog.of(installation).entries())) == 3

    done = restore(installation, backup, replace=True)
    assert len(list(AuditLog.of(installation).entries())) == 2
    assert len(list(AuditLog(Path(done.aside) / "audit").entries())) == 3, "the old records are kept aside"
    assert (Path(done.aside) / "mlflow" / "mlflow.db").is_file()
    assert done.missing == ()


def test_a_killed_restore_is_finished_with_replace(
    installation: Settings, home: Callable[[str], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(installation, backup := tmp_path / "backup.tar.gz")
    new = home("new")
    with monkeypatch.context() as patch:
        # Its package exports the function of the same name.
        patch.setattr(importlib.import_module("registry.backup.restore"), "_put", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            restore(new, backup)
    with pytest.raises(BackupFailed, match="records of its own"):
        restore(new, backup)
    restore(new, backup, replace=True)
    assert registry_of(new).production("toy") is not None
    assert AuditLog.of(new).verify() is not None


def test_a_backup_refuses_a_forged_log(installation: Settings, tmp_path: Path) -> None:
    log = AuditLog.of(installation).path
    log.write_text(log.read_text().replace("anna", "otto"))
    with pytest.raises(AuditBroken):
        back_up(installation, tmp_path / "backup.tar.gz")
    assert not list(tmp_path.glob("*.gz"))


def test_a_backup_never_overwrites(installation: Settings, tmp_path: Path) -> None:
    (tmp_path / "backup.tar.gz").write_text("precious")
    with pytest.raises(OptionInvalid, match="exists already"):
        back_up(installation, tmp_path / "backup.tar.gz")
    assert (tmp_path / "backup.tar.gz").read_text() == "precious"
