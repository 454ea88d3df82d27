"""Backup and restore of releases, approvals and the audit log in one file."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.audit import AuditLog, Head
from registry.backup import back_up, require_whole, restore
from registry.backup.archive import LISTING
from registry.backup.container import opened
from registry.backup.create import temporary_folder
from registry.signing import KeyPair
from registry.witnesses import Folder
from tests.registry.backup_support import Home, everything, registry_of
from tests.support.mutation import blobs, examples
from weighbridge.errors import (
    AuditBroken,
    BackupDamaged,
    BackupFailed,
    BackupOutdated,
    BackupUnsigned,
    OptionInvalid,
    RestoreUnfinished,
)
from weighbridge.settings import Settings


def test_a_restore_recovers_versions_files_aliases_and_the_log(
    installation: Settings, home: Home, tmp_path: Path
) -> None:
    written = back_up(installation, tmp_path / "backup.tar.gz")
    assert (tmp_path / "backup.tar.gz").stat().st_mode & 0o077 == 0, "readable by its owner only"
    assert not list(tmp_path.glob(".*")), "no temporary file is left"
    done = restore(new := home("new", keys_of=installation), tmp_path / "backup.tar.gz")
    assert done.contents == written and done.signed and done.taken_back == ""
    production = registry_of(new).production("toy")
    assert production is not None and production.version == 1
    assert (new.home / "mlflow" / "artifacts" / "report.html").read_text() == "<p>report</p>"
    last = AuditLog.of(new).verify(written.audit_head)
    assert last is not None and [entry.action for entry in AuditLog.of(new).entries()] == [
        "approve",
        "production",
        "restored",
    ]
    assert [artifact.line for artifact in done.missing] == ["line"], (
        "a backup has no weights, and the restore lists the missing artifacts"
    )
    assert done.replaced == ()
    assert AuditLog.of(new).append("previous", "toy", None).number == last.number + 1


def test_a_backup_during_writes_is_consistent(installation: Settings, home: Home, tmp_path: Path) -> None:
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
        new = home(f"new-{number}", keys_of=installation)
        restore(new, tmp_path / f"{number}.tar.gz")
        *entries, restored = AuditLog.of(new).entries()
        assert restored.action == "restored" and len(entries) == written.audit_entries
        recorded = int(registry_of(new).version("toy", 1).state_reason.removeprefix("number ") or 0)
        logged = int(entries[-1].reason.removeprefix("number ") or 0)
        # A change is written to MLflow first and to the log right after it; a backup copies the log last.
        assert 0 <= recorded <= logged + 1


def test_every_flipped_bit_is_found_before_anything_is_read(installation: Settings, tmp_path: Path) -> None:
    back_up(installation, good := tmp_path / "good.tar.gz")
    content = good.read_bytes()
    (bad := tmp_path / "bad").write_bytes(content)
    beginning = content.index(b"\n", content.index(b"\n") + 1) + 12
    random = Random(7)
    places = [(at, bit) for at in range(beginning) for bit in (0, 5)]
    places += [(random.randrange(len(content)), random.randrange(8)) for _ in range(100)]
    places += [(at, bit) for at in range(len(content) - 8, len(content)) for bit in range(8)]
    with bad.open("r+b", buffering=0) as file:
        for at, bit in places:
            file.seek(at)
            file.write(bytes([content[at] ^ 1 << bit]))
            with pytest.raises(BackupDamaged), opened(bad, KeyPair.of(installation), unsigned=True):
                pytest.fail(f"bit {bit} of byte {at} of {len(content)}")
            file.seek(at)
            file.write(content[at : at + 1])
    for end in (0, 1, 20, 85, 86, 1000, len(content) - 1):
        bad.write_bytes(content[:end])
        with pytest.raises(BackupDamaged):
            restore(installation, bad, dry_run=True)
    bad.write_bytes(content + b"\0")
    with pytest.raises(BackupDamaged):
        restore(installation, bad, dry_run=True)


def test_a_backup_of_somebody_else_is_refused(installation: Settings, home: Home, tmp_path: Path) -> None:
    back_up(installation, file := tmp_path / "backup.tar.gz")
    other = home("other")
    AuditLog.of(other).append("approve", "toy", 1, who="ada")
    before = AuditLog.of(other).path.read_bytes()
    for dry_run in (True, False):
        with pytest.raises(BackupUnsigned, match="did not sign"):
            restore(other, file, replace=True, dry_run=dry_run)
    assert AuditLog.of(other).path.read_bytes() == before
    done = restore(other, file, replace=True, unsigned=True, rewind=True)
    assert not done.signed and next(AuditLog.of(other).entries()).who == "anna"


def test_an_older_backup_takes_nothing_back_unasked(installation: Settings, tmp_path: Path) -> None:
    back_up(installation, old := tmp_path / "old.tar.gz")
    AuditLog.of(installation).append("state", "toy", 1, what="refused", reason="it is poisoned")
    with pytest.raises(BackupOutdated, match="Entry 3 is missing: this installation noted 3, and the log ends at 2"):
        restore(installation, old, replace=True)
    assert restore(installation, old, dry_run=True).taken_back.startswith("Entry 3 is missing")
    head = AuditLog.of(installation).verify()
    assert head is not None and head.number == 3
    restore(installation, old, replace=True, rewind=True)
    log = AuditLog.of(installation)
    *_, restored = log.entries()
    assert restored.what.endswith(f"instead of 3 {head.hash}")
    witnessed = [("the bucket", Head(number=3, hash=head.hash))]
    assert log.verify(noted=witnessed) is not None, "what was taken back is known, and no forgery"
    with pytest.raises(AuditBroken, match="Entries 4 to 5 are missing"):
        log.verify(noted=[("the bucket", Head(number=5, hash=head.hash))])


def test_an_earlier_rewind_excuses_nothing_that_happened_since(installation: Settings, tmp_path: Path) -> None:
    log = AuditLog.of(installation)
    back_up(installation, oldest := tmp_path / "oldest.tar.gz")
    for state in ("rolling", "serving", "rolling", "serving"):
        log.append("state", "toy", 1, what=state)
    restore(installation, oldest, replace=True, rewind=True)
    back_up(installation, after_rewind := tmp_path / "after.tar.gz")
    log.append("state", "toy", 1, what="refused", reason="it is poisoned")
    with pytest.raises(BackupOutdated, match="Entry 4 is missing"):
        restore(installation, after_rewind, replace=True)
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(AuditBroken, match="Entry 4 is missing"):
        log.verify()


def test_a_witness_remembers_what_the_home_forgot(installation: Settings, home: Home, tmp_path: Path) -> None:
    back_up(installation, old := tmp_path / "old.tar.gz")
    AuditLog.of(installation).append("state", "toy", 1, what="refused")
    head = AuditLog.of(installation).head()
    assert head is not None
    Folder(str(tmp_path / "witness")).note(head)
    fresh = home("fresh", keys_of=installation).model_copy(update={"audit_witness_url": str(tmp_path / "witness")})
    with pytest.raises(BackupOutdated, match="Entry 3 is missing"):
        restore(fresh, old)


def changed(**fields: object) -> Callable[[tarfile.TarInfo], None]:
    """Make a function that gives a member other fields."""

    def change(member: tarfile.TarInfo) -> None:
        for name, value in fields.items():
            setattr(member, name, value)

    return change


EVIL: dict[str, Callable[[tarfile.TarInfo], None]] = {
    "a link": changed(type=tarfile.SYMTYPE, linkname="../audit"),
    "a hard link": changed(type=tarfile.LNKTYPE, linkname=LISTING),
    "a FIFO": changed(type=tarfile.FIFOTYPE),
    "a device": changed(type=tarfile.CHRTYPE),
    "a folder": changed(type=tarfile.DIRTYPE),
    "a sparse file": changed(type=tarfile.GNUTYPE_SPARSE),
    "absolute": changed(name="/tmp/evil"),
    "upwards": changed(name="mlflow/../../evil"),
    "a control character": changed(name="mlflow/\x1b[2J"),
    "no name": changed(name="mlflow//x"),
    "twice": changed(name="audit/log.jsonl"),
    "unlisted": changed(name="gateway/routes.json"),
}


@pytest.mark.parametrize("how", EVIL)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_hostile_member_is_refused_and_nothing_is_written(
    installation: Settings, home: Home, tmp_path: Path, how: str, dry_run: bool
) -> None:
    back_up(installation, tmp_path / "good")
    evil = tarfile.TarInfo("mlflow/artifacts/evil")
    EVIL[how](evil)
    repack(tmp_path / "good", tmp_path / "bad", [evil])
    new = home("new")
    before = everything(tmp_path)
    with pytest.raises(BackupDamaged):
        restore(new, tmp_path / "bad", unsigned=True, dry_run=dry_run)
    assert everything(tmp_path) == before


def test_a_dry_run_writes_nothing_even_when_all_is_well(installation: Settings, tmp_path: Path) -> None:
    back_up(installation, tmp_path / "good")
    before = everything(tmp_path)
    restore(installation, tmp_path / "good", dry_run=True)
    assert everything(tmp_path) == before


def test_the_links_of_cve_2025_4517_lead_nowhere(home: Home, tmp_path: Path) -> None:
    (victim := tmp_path / "victim").mkdir()
    (victim / "log.jsonl").write_text("the audit log")
    with tarfile.open(tmp_path / "evil", "w:gz") as archive:
        path = ""
        for letter in (steps := "abcdefghijklmnop"):
            folder = tarfile.TarInfo(f"{path}{'d' * 247}")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            archive.addfile(link(f"{path}{letter}", "d" * 247))
            path += f"{'d' * 247}/"
        archive.addfile(link(f"{'/'.join(steps)}/{'l' * 254}", "../" * len(steps)))
        archive.addfile(link("escape", f"{'/'.join(steps)}/{'l' * 254}/../../victim"))
        archive.addfile(tarfile.TarInfo("escape/log.jsonl"))
    for dry_run in (True, False):
        with pytest.raises(BackupDamaged):
            restore(home("new"), tmp_path / "evil", unsigned=True, dry_run=dry_run)
    assert (victim / "log.jsonl").read_text() == "the audit log"


def test_a_bomb_is_refused_before_it_fills_the_disk(home: Home, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bomb", "w:gz") as archive:
        member = tarfile.TarInfo("mlflow/mlflow.db")
        member.size = 1 << 28
        archive.addfile(member, cast(Any, Zeros()))
    assert (tmp_path / "bomb").stat().st_size < 1 << 19
    with pytest.raises(BackupDamaged, match="far larger than its file"):
        restore(home("new"), tmp_path / "bomb", unsigned=True)


class Zeros:
    """A file without an end."""

    def read(self, size: int) -> bytes:
        return bytes(size)


def test_a_backup_from_before_signatures_is_read_if_that_is_asked_for(
    installation: Settings, home: Home, tmp_path: Path
) -> None:
    back_up(installation, tmp_path / "good")
    repack(tmp_path / "good", tmp_path / "unsigned", [])
    with pytest.raises(BackupUnsigned, match="of a version that did not sign"):
        restore(home("new"), tmp_path / "unsigned")
    done = restore(home("new"), tmp_path / "unsigned", unsigned=True)
    assert not done.signed and done.contents.audit_entries == 2


@pytest.mark.parametrize("how", ["another head", "a log that was edited"])
def test_a_log_that_is_not_the_one_that_was_written_is_damage(
    installation: Settings, home: Home, tmp_path: Path, how: str
) -> None:
    back_up(installation, tmp_path / "good")

    def change(name: str, data: bytes) -> bytes:
        if how == "another head" and name == LISTING:
            return data.replace(b'"audit_entries": 2', b'"audit_entries": 3')
        return data.replace(b"anna", b"otto") if name.startswith("audit/") else data

    repack(tmp_path / "good", tmp_path / "bad", [], change)
    with pytest.raises(BackupDamaged):
        restore(home("new"), tmp_path / "bad", unsigned=True)


@pytest.mark.parametrize("where", ["a link", "inside", "among the logs", "for everybody"])
def test_a_backup_is_not_written_where_it_would_be_lost_or_replaced(
    installation: Settings, tmp_path: Path, where: str
) -> None:
    (folder := tmp_path / "folder").mkdir()
    target = folder / "backup"
    if where == "a link":
        target.symlink_to(tmp_path / "victim")
    elif where == "inside":
        target = installation.home / "mlflow" / "artifacts" / "backup"
    elif where == "among the logs":
        target = installation.home / "audit" / "backup"
    else:
        folder.chmod(0o777)
    with pytest.raises(OptionInvalid):
        back_up(installation, target)
    assert not (tmp_path / "victim").exists() and (where == "a link" or not target.exists())


def test_a_restore_follows_no_link_out_of_the_home(installation: Settings, home: Home, tmp_path: Path) -> None:
    back_up(installation, tmp_path / "good")
    new = home("new", keys_of=installation)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (new.home / "mlflow").symlink_to(elsewhere)
    with pytest.raises(BackupFailed, match="mlflow is a link"):
        restore(new, tmp_path / "good", replace=True)
    assert list(elsewhere.iterdir()) == []


def test_files_that_are_links_are_left_out_of_a_backup(installation: Settings, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (installation.home / "mlflow" / "artifacts" / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(installation.home / "mlflow" / "artifacts" / "pipe")
    said: list[str] = []
    written = back_up(installation, tmp_path / "good", said.append)
    assert "mlflow/artifacts/report.html" in written.sha256 and "mlflow/artifacts/link" not in written.sha256
    assert len([sentence for sentence in said if sentence.startswith("Left out")]) == 2


def test_what_a_kill_left_is_removed_and_what_lives_stays(installation: Settings, tmp_path: Path) -> None:
    for name, age_seconds in (("young", 60), ("old", 100_000)):
        (left := tmp_path / f".weighbridge-backup-{name}").mkdir()
        os.utime(left, (time.time() - age_seconds,) * 2)
    (dead := tmp_path / ".weighbridge-backup-dead").mkdir()
    (dead / ".lock").touch()
    with temporary_folder(tmp_path, ".weighbridge-backup-") as living:
        back_up(installation, tmp_path / "good")
        kept = {path.name for path in tmp_path.glob(".weighbridge-backup-*")}
    assert kept == {".weighbridge-backup-young", living.name}


def test_a_full_disk_leaves_nothing_of_a_backup_or_of_a_restore(
    installation: Settings, home: Home, tmp_path: Path
) -> None:
    back_up(installation, tmp_path / "good")
    new = home("new", keys_of=installation)
    code = (
        "import resource, signal, sys; from pathlib import Path; from registry.backup import back_up, restore\n"
        "from weighbridge.errors import WeighbridgeError; from weighbridge.settings import Settings\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "old, new, folder = map(Path, sys.argv[1:])\n"
        "calls = [lambda: back_up(Settings(home=old), folder / 'b'),\n"
        "    lambda: restore(Settings(home=new), folder / 'good')]\n"
        "for call in calls:\n"
        "    try: call()\n"
        "    except WeighbridgeError as error: print(error.code)\n"
    )
    before = everything(tmp_path)
    command = [sys.executable, "-c", code, str(installation.home), str(new.home), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["BackupFailed", "DiskFull"], done.stderr
    after = everything(tmp_path)
    assert {name for name in after if "lock" not in name} == {name for name in before if "lock" not in name}


@examples()
@given(st.data())
def test_no_archive_makes_the_reader_raise_anything_but_a_named_error(data: st.DataObject) -> None:
    archive = gzip.compress(data.draw(blobs(TAR)), 1) if data.draw(st.booleans()) else data.draw(blobs(TAR_GZ))
    with tempfile.TemporaryDirectory() as name:
        (file := Path(name, "backup")).write_bytes(archive)
        try:
            restore(Settings(home=Path(name, "home")), file, unsigned=True, dry_run=True)
        except (BackupDamaged, BackupUnsigned, BackupFailed, BackupOutdated) as error:
            assert error.what


def small() -> bytes:
    """Make an archive without MLflow's database, which fuzzing can work through."""
    content = b"x" * 700
    sha256 = {"mlflow/mlflow.db": hashlib.sha256(content).hexdigest()}
    listing: dict[str, object] = {
        "made_at": "2026",
        "weighbridge": "1",
        "database": "sqlite",
        "mlflow_files": "s3://b",
        "artifacts": [],
    }
    listing |= {"audit_entries": 0, "audit_head": "0" * 64, "sha256": sha256}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, part in (("mlflow/mlflow.db", content), (LISTING, json.dumps(listing).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))
    return file.getvalue()


TAR = small()
TAR_GZ = gzip.compress(TAR, mtime=0)


def link(name: str, target: str) -> tarfile.TarInfo:
    """Make a member that is a link."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def repack(
    good: Path, bad: Path, more: list[tarfile.TarInfo], change: Callable[[str, bytes], bytes] = lambda _, data: data
) -> None:
    """Write an archive of the old, unsigned form with changed or further members, whose listing is right."""
    archive = good.read_bytes().split(b"\n", 2)[2]
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(bad, "w:gz") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            if member.name == LISTING:
                for extra in more:
                    new.addfile(extra)
            data = change(member.name, content.read())
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))


def test_existing_records_are_replaced_only_with_replace(installation: Settings, tmp_path: Path) -> None:
    back_up(installation, backup := tmp_path / "backup.tar.gz")
    registry_of(installation).set_production("toy", 1)
    with pytest.raises(BackupFailed, match="records of its own"):
        restore(installation, backup, rewind=True)
    tried = restore(installation, backup, dry_run=True)
    assert "mlflow/mlflow.db" in tried.replaced and not Path(tried.aside).exists()
    assert len(list(AuditLog.of(installation).entries())) == 3

    done = restore(installation, backup, replace=True, rewind=True)
    assert [entry.action for entry in AuditLog.of(installation).entries()] == ["approve", "production", "restored"]
    assert len(list(AuditLog(Path(done.aside) / "audit").entries())) == 3, "the old records are kept aside"
    assert (Path(done.aside) / "mlflow" / "mlflow.db").is_file()
    assert done.missing == ()


def test_a_killed_restore_is_finished_by_the_same_command(
    installation: Settings, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(installation, backup := tmp_path / "backup.tar.gz")
    registry_of(installation).set_production("toy", 1)
    back_up(installation, other := tmp_path / "other.tar.gz")
    new = home("new", keys_of=installation)
    with monkeypatch.context() as patch:
        patch.setattr("registry.backup.placing._put", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            restore(new, backup)
    with pytest.raises(RestoreUnfinished, match="killed before its end"):
        require_whole(new)
    with pytest.raises(BackupFailed, match="records of its own"):
        restore(new, other)
    restore(new, backup)
    require_whole(new)
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
