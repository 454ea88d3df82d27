"""`Store.path` gives out verified bytes only: whatever is done to an artifact on the disk is refused by name."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.store import Artifact, Store, check
from tests.registry.store_support import make_artifact, rewrite
from weighbridge.errors import ArtifactDamaged, ArtifactMissing, ArtifactUnsigned


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def flip_a_byte_and_keep_size_and_mtime(folder: Path) -> None:
    path = folder / "model/sub/model.safetensors"
    about = path.stat()
    rewrite(path, "Weights")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def exchange_a_file_for_a_link(folder: Path) -> None:
    """The content is right now, and may be another later."""
    path = folder / "model/config.json"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def exchange_a_folder_for_a_link(folder: Path) -> None:
    (folder / "model/sub").rename(folder.parent / "elsewhere")
    (folder / "model/sub").symlink_to(folder.parent / "elsewhere")


def exchange_the_model_for_a_link(folder: Path) -> None:
    (folder / "model").rename(folder.parent / "elsewhere")
    (folder / "model").symlink_to(folder.parent / "elsewhere")


def exchange_the_artifact_for_a_link(folder: Path) -> None:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


def exchange_the_line_for_a_link(folder: Path) -> None:
    folder.parent.rename(folder.parent.parent / "elsewhere")
    folder.parent.symlink_to(folder.parent.parent / "elsewhere")


def exchange_a_file_for_a_pipe(folder: Path) -> None:
    (folder / "model/config.json").unlink()
    os.mkfifo(folder / "model/config.json")


def exchange_the_manifest_for_a_pipe(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def exchange_the_signature_for_a_pipe(folder: Path) -> None:
    (folder / "manifest.sig").unlink()
    os.mkfifo(folder / "manifest.sig")


def exchange_the_manifest_for_a_link(folder: Path) -> None:
    (folder / "manifest.json").rename(folder.parent / "elsewhere")
    (folder / "manifest.json").symlink_to(folder.parent / "elsewhere")


def add_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "model/chat_template.jinja")


def add_a_socket(folder: Path) -> None:
    before = Path.cwd()
    os.chdir(folder / "model")  # an address has 108 characters
    try:
        socket.socket(socket.AF_UNIX).bind("s")
    finally:
        os.chdir(before)


def add_a_folder(folder: Path) -> None:
    (folder / "model/code").mkdir()


def add_a_hidden_file(folder: Path) -> None:
    (folder / "model/.evil").write_text("x")


def add_a_name_that_a_terminal_obeys(folder: Path) -> None:
    (folder / "model/\x1b[2Jx").write_text("x")


def add_a_name_that_is_no_text(folder: Path) -> None:
    (folder / os.fsdecode(b"model/\xff")).write_text("x")


def add_a_folder_beside_the_model(folder: Path) -> None:
    (folder / "model2").mkdir()


def add_a_link_beside_the_model(folder: Path) -> None:
    (folder / "manifest.sigstore").symlink_to(folder / "manifest.sig")


HARMS = [
    flip_a_byte_and_keep_size_and_mtime,
    exchange_a_file_for_a_link,
    exchange_a_folder_for_a_link,
    exchange_the_model_for_a_link,
    exchange_the_artifact_for_a_link,
    exchange_the_line_for_a_link,
    exchange_a_file_for_a_pipe,
    exchange_the_manifest_for_a_pipe,
    exchange_the_signature_for_a_pipe,
    exchange_the_manifest_for_a_link,
    add_a_pipe,
    add_a_socket,
    add_a_folder,
    add_a_hidden_file,
    add_a_name_that_a_terminal_obeys,
    add_a_name_that_is_no_text,
    add_a_folder_beside_the_model,
    add_a_link_beside_the_model,
]


@pytest.mark.parametrize("asked_before", [False, True], ids=["first", "asked before"])
@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_an_altered_artifact_is_given_to_nobody(store: Store, harm: Callable[[Path], None], asked_before: bool) -> None:
    artifact = make_artifact(store)
    if asked_before:
        store.path(artifact)
    harm(store.unverified_folder(artifact))
    with pytest.raises(ArtifactDamaged) as caught:
        store.path(artifact)
    assert str(caught.value).isprintable(), "a terminal would obey it"
    with pytest.raises(ArtifactDamaged):
        store.verify(artifact)


def test_a_right_artifact_is_given_out_and_read_only(store: Store) -> None:
    artifact = make_artifact(store)
    (store.unverified_folder(artifact) / "manifest.sigstore").write_text("a second one, as in sign.md")
    assert (store.path(artifact) / "sub/model.safetensors").read_text() == "weights"
    assert stat.S_IMODE((store.path(artifact) / "config.json").stat().st_mode) & 0o222 == 0


def test_a_file_is_hashed_once_a_process_and_again_when_it_may_have_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_artifact(store)
    monkeypatch.setattr(check, "SETTLED_SECONDS", 0)
    real, hashed = hashlib.file_digest, list[int]()

    def count(file: object, name: str) -> object:
        hashed.append(1)
        return real(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", count)
    for times in (2, 2):
        store.path(artifact)
        assert len(hashed) == times
    Store(store.folder).path(artifact)
    assert len(hashed) == 2, "another Store of the same process"
    (store.unverified_folder(artifact) / "model/config.json").touch()
    store.path(artifact)
    assert len(hashed) == 3, "one file was touched"
    store.verify(artifact)
    assert len(hashed) == 5, "verify reads everything again"


def test_a_file_that_was_written_just_now_is_hashed_again(store: Store) -> None:
    """Two writes within one tick of the file system's clock have the same times."""
    artifact = make_artifact(store)
    path = store.path(artifact) / "config.json"
    known = {name: entry for name, entry in check._hashed.items() if name == (path.stat().st_dev, path.stat().st_ino)}
    assert known == {}


def test_another_name_of_a_file_hides_no_change(store: Store, tmp_path: Path) -> None:
    """Backups make hard links, so they are allowed; a write through one has the same inode and other times."""
    artifact = make_artifact(store)
    os.link(store.path(artifact) / "config.json", tmp_path / "other-name")
    store.path(artifact)
    rewrite(tmp_path / "other-name", "[]")
    with pytest.raises(ArtifactDamaged, match=r"config\.json"):
        store.path(artifact)


def test_what_changes_during_a_long_reading_makes_its_result_void(store: Store) -> None:
    artifact = make_artifact(store)
    with store.reading(artifact) as (folder,):
        assert (folder / "config.json").read_text() == "{}"
    with pytest.raises(ArtifactDamaged, match=r"config\.json"), store.reading(artifact) as (folder,):
        rewrite(folder / "config.json", "[]")


def test_an_unsigned_artifact_is_given_to_nobody(store: Store) -> None:
    artifact = make_artifact(store)
    (store.unverified_folder(artifact) / "manifest.sig").unlink()
    with pytest.raises(ArtifactUnsigned):
        store.path(artifact)


@pytest.mark.parametrize(("line", "digest"), [("..", "0" * 64), ("a/b", "0" * 64), ("line", "../" * 8), ("*", "*")])
def test_a_name_that_leads_elsewhere_is_not_in_the_store(store: Store, line: str, digest: str) -> None:
    make_artifact(store)
    with pytest.raises(ArtifactMissing):
        store.manifest(line, digest)
    assert not store.holds(line, digest)


def test_names_of_strangers_are_not_listed(store: Store, tmp_path: Path) -> None:
    artifact = make_artifact(store)
    folder = store.unverified_folder(artifact)
    (tmp_path / "linked").mkdir()
    shutil.copytree(folder, tmp_path / "linked" / artifact.digest)
    (store.folder / "other").symlink_to(tmp_path / "linked")
    shutil.copytree(folder, store.folder / "line" / "no-digest")
    assert store.listed() == [("line", artifact.digest)]


@pytest.mark.parametrize("harm", ["link", "pipe", "altered"])
def test_what_is_no_plain_file_or_was_altered_is_not_adopted(store: Store, tmp_path: Path, harm: str) -> None:
    known = {"config.json": hashlib.sha256(b"{}").hexdigest()}
    with store.fresh_staging("line", "k") as folder:
        (folder / "config.json").write_text("{} " if harm == "altered" else "{}")
        if harm == "link":
            (tmp_path / "secret").write_text("x")
            (folder / "evil").symlink_to(tmp_path / "secret")
        elif harm == "pipe":
            os.mkfifo(folder / "evil")
        with pytest.raises(ArtifactDamaged, match="altered after it was written" if harm == "altered" else f"a {harm}"):
            store.adopt(folder, line="line", scheme="int8", repo="o/m", commit="c" * 40, known_sha256=known)
    assert store.artifacts() == []


def test_an_adopted_file_keeps_no_mode_that_lets_others_write_or_become_us(store: Store) -> None:
    with store.fresh_staging("line", "k") as folder:
        (folder / "code").mkdir(mode=0o777)
        (folder / "empty").mkdir()
        for name, mode in (("run.bin", 0o4777), ("code/own.json", 0o600), ("world.json", 0o666)):
            (folder / name).write_text(name)
            (folder / name).chmod(mode)
        (folder / "code").chmod(0o2777)
        artifact = store.adopt(folder, line="line", scheme="int8", repo="o/m", commit="c" * 40)
    model = store.path(artifact)
    modes = {path.relative_to(model).as_posix(): oct(path.stat().st_mode & 0o7777) for path in model.rglob("*")}
    assert modes == {"run.bin": "0o444", "code": "0o755", "code/own.json": "0o400", "world.json": "0o444"}


@pytest.mark.parametrize("root_is_linked", [False, True])
def test_a_store_on_another_disk_may_be_reached_by_a_link(tmp_path: Path, root_is_linked: bool) -> None:
    if root_is_linked:
        (tmp_path / "disk").mkdir()
        (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = Store(tmp_path / "store")
    store.path(make_artifact(store))


def test_the_staging_folder_may_not_be_a_link(store: Store, tmp_path: Path) -> None:
    make_artifact(store)
    shutil.rmtree(store.folder / "line/.staging")
    (tmp_path / "elsewhere").mkdir()
    (store.folder / "line/.staging").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactDamaged, match="no folder"):
        make_artifact(store, {"other": ""})
    assert list((tmp_path / "elsewhere").iterdir()) == []


def harmed(store: Store, harm: Callable[[Path], None]) -> Artifact:
    artifact = make_artifact(store)
    harm(store.unverified_folder(artifact))
    return artifact


@pytest.mark.parametrize(
    "harm", [harm for harm in HARMS if "the_line" not in harm.__name__], ids=lambda harm: harm.__name__
)
def test_a_fresh_copy_replaces_a_damaged_one(store: Store, harm: Callable[[Path], None]) -> None:
    artifact = harmed(store, harm)
    assert make_artifact(store) == artifact
    store.verify(artifact)
    assert (store.path(artifact) / "sub/model.safetensors").read_text() == "weights"


def test_a_sound_copy_stays_where_it_is(store: Store) -> None:
    artifact = make_artifact(store)
    before = (store.path(artifact) / "config.json").stat().st_ino
    make_artifact(store)
    assert (store.path(artifact) / "config.json").stat().st_ino == before
