"""A backup with production: weights, lines and secrets, on a machine that has nothing but a passphrase."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.backup import Production, ServedVersion, back_up, forecast, restore
from registry.backup.container import opened
from registry.signing import KeyPair
from registry.store import Artifact, Store
from tests.registry.backup_support import Home, everything, registry_of
from tests.registry.store_support import make_artifact, rewrite
from weighbridge.errors import (
    ArtifactDamaged,
    BackupDamaged,
    BackupFailed,
    BackupUnsigned,
    DiskFull,
    PassphraseUnusable,
    PassphraseWrong,
)
from weighbridge.settings import Settings

PASSPHRASE = "correct horse battery staple"
ROUTES = '{"lines": [], "generation": 3}'


@pytest.fixture(autouse=True)
def quick_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the weakest key derivation that is read: the tests open many backups."""
    monkeypatch.setattr("registry.backup.secrets.LOG2_N", 14)


@pytest.fixture
def artifacts(installation: Settings) -> list[Artifact]:
    """Two artifacts of a line, of several files."""
    store = Store.of(installation)
    return [
        make_artifact(store, {"config.json": "{}", "sub/model.safetensors": text * 2000, "empty": ""}, scheme=text)
        for text in ("int8", "int4")
    ]


@pytest.fixture
def production(installation: Settings, artifacts: list[Artifact], tmp_path: Path) -> Production:
    """What serves, with a line's file and secrets of every kind."""
    home = installation.home
    (tmp_path / "line.yaml").write_text("source: hf://org/toy\n")
    (tmp_path / "routes.json").write_text(ROUTES)
    for name in ("gateway/keys.json", "mlflow/passwords/ada", "webhook/secret", "webhook/seen.json"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"secret {name}")
        (home / name).chmod(0o600)
    return Production(
        versions=tuple(
            ServedVersion(version=str(number), serves=number == 1, artifact=artifact)
            for number, artifact in enumerate(artifacts, start=1)
        ),
        files={"gateway/routes.json": tmp_path / "routes.json", "root/lines/toy.yaml": tmp_path / "line.yaml"},
    )


@pytest.fixture
def file(installation: Settings, production: Production, tmp_path: Path) -> Path:
    back_up(installation, tmp_path / "backup", production=production, passphrase=PASSPHRASE)
    return tmp_path / "backup"


@pytest.fixture
def fresh(home: Home, tmp_path: Path) -> Callable[..., Settings]:
    """Go to a machine without anything: a home and a root of its own, no key."""

    def go(name: str = "fresh") -> Settings:
        return home(name).model_copy(update={"root": tmp_path / f"root of {name}"})

    return go


def known() -> str:
    return PASSPHRASE


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_machine_with_the_passphrase_alone_gets_everything_that_serving_needs(
    installation: Settings, artifacts: list[Artifact], file: Path, fresh: Callable[..., Settings]
) -> None:
    new = fresh()
    tried = restore(new, file, dry_run=True, passphrase=known)
    assert tried.signed and tried.secrets and not (new.home / "store").exists()
    done = restore(new, file, passphrase=known)
    assert done.signed and done.replaced == () and [served.serves for served in done.serves] == [True, False]
    for artifact in artifacts:
        Store.of(new).verify(artifact)
    for name in ("gateway/keys.json", "mlflow/passwords/ada", "webhook/secret", "keys/weighbridge.key"):
        assert (new.home / name).read_bytes() == (installation.home / name).read_bytes()
        assert (new.home / name).stat().st_mode & 0o077 == 0, f"{name} is for its owner only"
    assert not (new.home / "webhook" / "seen.json").exists()
    assert (new.home / "gateway" / "restored-routes.json").read_text() == ROUTES
    assert not (new.home / "gateway" / "routes.json").exists(), "its ports are another machine's"
    assert (new.root / "lines" / "toy.yaml").read_text() == "source: hf://org/toy\n"
    version = registry_of(new).production("toy")
    assert version is not None and version.version == 1
    again = back_up(new, file.with_name("again"))
    assert again.audit_entries == 3, "the restored keys sign"


def test_no_secret_is_readable_in_the_file(installation: Settings, file: Path) -> None:
    assert file.stat().st_mode & 0o077 == 0
    content = file.read_bytes()
    key = (installation.home / "keys" / "weighbridge.key").read_bytes().splitlines()[1]
    assert b"secret " not in content and key not in content


@pytest.mark.parametrize("wrong", ["correct horse battery stable", ""])
def test_a_wrong_passphrase_is_named_and_changes_nothing(
    file: Path, fresh: Callable[..., Settings], tmp_path: Path, wrong: str
) -> None:
    new = fresh()
    before = everything(tmp_path)
    with pytest.raises(PassphraseWrong):
        restore(new, file, passphrase=lambda: wrong)
    assert everything(tmp_path) == before


def test_a_short_passphrase_is_refused_before_anything_is_copied(
    installation: Settings, production: Production, tmp_path: Path
) -> None:
    with pytest.raises(PassphraseUnusable, match="11 characters"):
        back_up(installation, tmp_path / "backup", production=production, passphrase="eleven char")
    assert not (tmp_path / "backup").exists()


def test_without_the_secrets_the_machine_must_have_the_keys(
    installation: Settings, artifacts: list[Artifact], file: Path, fresh: Callable[..., Settings], home: Home
) -> None:
    with pytest.raises(BackupUnsigned):
        restore(fresh(), file)
    new = home("keyed", keys_of=installation).model_copy(update={"root": file.parent / "keyed root"})
    done = restore(new, file)
    assert not done.secrets and not (new.home / "gateway" / "keys.json").exists()
    Store.of(new).verify(artifacts[0])


def test_every_byte_is_verified(
    installation: Settings, file: Path, fresh: Callable[..., Settings], tmp_path: Path
) -> None:
    new = fresh()
    content = file.read_bytes()
    with opened(file, KeyPair.of(installation)) as archive:
        start, weights = archive.start, archive.weights_start
    before = everything(tmp_path)
    places = [0, 21, 90, 100, 106, 200, start - 5, start + 10, weights - 1, weights, len(content) - 1]
    # The last one is of the second artifact: the first is whole by then, and is removed again.
    for at in places:
        flip(file, at)
        with pytest.raises((BackupDamaged, PassphraseWrong)):
            restore(new, file, passphrase=known)
        file.write_bytes(content)
    for end in (weights - 1, weights, len(content) - 1):
        file.write_bytes(content[:end])
        with pytest.raises(BackupDamaged):
            restore(new, file, passphrase=known)
    file.write_bytes(content + b"\0")
    with pytest.raises(BackupDamaged):
        restore(new, file, dry_run=True, passphrase=known)
    file.write_bytes(content)
    flip(file, len(content) - 1)
    with pytest.raises(BackupDamaged, match=r"sub/model.safetensors of store://line/.* is not what was written"):
        restore(new, file, dry_run=True, passphrase=known)
    file.write_bytes(content)
    left = {name for name in everything(tmp_path) if not name.startswith("fresh/store")}
    assert left == {name for name in before if not name.startswith("fresh/store")}
    assert not list((new.home / "store").glob("*/*/manifest.json")), "no part of a damaged backup is kept"


def test_secrets_of_another_backup_are_noticed(
    installation: Settings, production: Production, file: Path, tmp_path: Path, fresh: Callable[..., Settings]
) -> None:
    # Whoever replaces them, and even computes the checksum anew, still lacks the signature.
    back_up(installation, other := tmp_path / "other", production=production, passphrase=PASSPHRASE)
    lines, others = file.read_bytes().split(b"\n", 3), other.read_bytes().split(b"\n", 3)
    first = lines[0].split(b" ")
    size = int(first[3])
    covered = b"\n".join((lines[1], others[2], lines[3][:size]))
    first[2] = hashlib.sha256(covered).hexdigest().encode()
    file.write_bytes(b"\n".join((b" ".join(first), lines[1], others[2], lines[3])))
    with pytest.raises(BackupDamaged, match="secrets are another backup's"):
        restore(fresh(), file, passphrase=known)


def test_a_forger_who_knows_no_passphrase_is_refused(
    file: Path, installation: Settings, production: Production, fresh: Callable[..., Settings], tmp_path: Path
) -> None:
    forger = fresh("forger")
    restore(forger, file, passphrase=known)
    for folder in ("keys", "audit"):
        shutil.rmtree(forger.home / folder)
    for signature in (forger.home / "store").glob("*/*/manifest.sig"):
        signature.unlink()
    KeyPair.of(forger).prepare()
    for served in production.versions:
        Store.of(forger).sign(served.artifact)
    back_up(forger, forged := tmp_path / "forged", production=production, passphrase="the forger's own one")
    with pytest.raises(PassphraseWrong):
        restore(fresh(), forged, passphrase=known)
    with pytest.raises(BackupUnsigned):
        restore(installation, forged, replace=True)


def test_another_installation_is_replaced_only_with_replace(
    file: Path, fresh: Callable[..., Settings], artifacts: list[Artifact]
) -> None:
    new = fresh()
    (new.root / "lines").mkdir(parents=True)
    (new.root / "lines" / "toy.yaml").write_text("source: hf://org/other\n")
    (new.home / "gateway").mkdir()
    (new.home / "gateway" / "keys.json").write_text("others")
    with pytest.raises(BackupFailed, match=r"gateway/keys.json, .*lines/toy.yaml"):
        restore(new, file, passphrase=known)
    assert not (new.home / "store").exists()
    done = restore(new, file, replace=True, passphrase=known)
    assert (Path(done.aside) / "gateway" / "keys.json").read_text() == "others"
    assert (Path(done.aside) / "root" / "lines" / "toy.yaml").read_text() == "source: hf://org/other\n"
    assert (new.root / "lines" / "toy.yaml").read_text() == "source: hf://org/toy\n"


def test_a_damaged_artifact_gets_into_no_backup(
    installation: Settings, artifacts: list[Artifact], production: Production, tmp_path: Path
) -> None:
    path = installation.store_folder / "line" / artifacts[1].digest / "model" / "sub" / "model.safetensors"
    rewrite(path, "altered")
    with pytest.raises(ArtifactDamaged, match=r"sub/model.safetensors"):
        back_up(installation, tmp_path / "backup", production=production, passphrase=PASSPHRASE)
    assert not list(tmp_path.glob("backup")) and not list(tmp_path.glob(".weighbridge-*"))


def test_the_size_is_known_before_and_a_disk_too_small_refused(
    installation: Settings, production: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = forecast(installation, tmp_path / "backup", production)
    assert expected.weights_bytes == production.weights_bytes and "keys/weighbridge.key" in expected.secrets
    back_up(installation, tmp_path / "backup", production=production, passphrase=PASSPHRASE)
    assert production.weights_bytes < (tmp_path / "backup").stat().st_size < expected.need_bytes
    huge = production.versions[0].artifact.model_copy(update={"size_bytes": 1 << 60})
    too_large = production.model_copy(update={"versions": (ServedVersion(version="1", serves=True, artifact=huge),)})
    with pytest.raises(DiskFull, match="while it is made"):
        back_up(installation, tmp_path / "other", production=too_large, passphrase=PASSPHRASE)


KILLED = """
import os, sys, time
from pathlib import Path
from registry.backup import restore
from weighbridge.settings import Settings

def progress(done, total):
    if done == int(sys.argv[4]):
        print("there", flush=True)
        time.sleep(60)

home, file, root, _ = sys.argv[1:]
restore(Settings(home=Path(home), root=Path(root)), Path(file), passphrase=lambda: "correct horse battery staple",
    progress=progress)
"""


def test_a_restore_killed_among_the_weights_is_continued(
    file: Path, fresh: Callable[..., Settings], artifacts: list[Artifact]
) -> None:
    new = fresh()
    first, second = artifacts
    command = [sys.executable, "-c", KILLED, str(new.home), str(file), str(new.root), str(first.size_bytes + 2)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)
    assert process.stdout is not None and process.stdout.readline() == b"there\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = Store.of(new)
    assert store.holds_locally("line", first.digest) and not store.holds_locally("line", second.digest)
    assert not (new.home / "keys" / "weighbridge.key").exists() and not (new.home / "mlflow").exists()
    kept = (store.folder / "line" / first.digest / "manifest.json").stat().st_mtime
    time.sleep(0.01)
    restore(new, file, passphrase=known)
    store.verify(second)
    assert (store.folder / "line" / first.digest / "manifest.json").stat().st_mtime == kept
    assert not list(new.home.glob(".weighbridge-restore-*")), "what the kill left is removed"


def test_weights_are_read_in_parts(file: Path, production: Production, installation: Settings, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    back_up(
        installation,
        tmp_path / "other",
        production=production,
        passphrase=PASSPHRASE,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[0] == (0, production.weights_bytes) and seen[-1] == (production.weights_bytes,) * 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
