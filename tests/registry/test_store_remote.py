"""The remote store, on a real S3-compatible server in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.store import Artifact, FileEntry, Manifest, Store, clean, provenance_of
from registry.store.artifact import digest_of, read_manifest
from tests.registry.store_support import make_artifact, rewrite
from tests.support.mutation import documents, examples
from tests.support.object_store import object_store
from weighbridge.errors import ArtifactDamaged, ArtifactMissing, ArtifactUnsigned, SettingsInvalid, StoreUnreachable


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with object_store() as endpoint:
        yield endpoint


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URL of a bucket used by one test."""
    import fsspec
    import s3fs

    variables = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**variables, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/models"


@pytest.fixture
def store(tmp_path: Path, url: str) -> Store:
    return Store(tmp_path / "store", url)


def objects(store: Store) -> set[str]:
    assert store.remote
    filesystem = store.remote._fs
    filesystem.invalidate_cache()
    return {path.split("/", 4)[-1] for path in filesystem.find(store.remote._root)}


def test_an_artifact_is_uploaded_and_fetched_on_demand(store: Store, url: str, tmp_path: Path) -> None:
    artifact = make_artifact(store)
    assert objects(store) == {"manifest.json", "manifest.sig", "model/config.json", "model/sub/model.safetensors"}
    other = Store(tmp_path / "other", url)
    assert other.artifacts() == [artifact]
    assert other.get("line", artifact.digest) == artifact
    assert other.facts(artifact) == {"made_by": "quantize"}
    assert not other.holds_locally("line", artifact.digest), "reading the manifest downloads no weights"
    other.verify(artifact)
    assert (other.path(artifact) / "sub/model.safetensors").read_text() == "weights"


def test_the_store_url_setting_suffices(
    url: str, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_STORE_URL", url)
    artifact = make_artifact(Store())
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "two"))
    shutil.copytree(own_home / "keys", tmp_path / "two" / "keys")
    Store().verify(artifact)


def test_an_interrupted_upload_is_invisible_and_finished_by_a_retry(
    store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.remote
    real = store.remote._fs.put_file

    def cut(local_path: str, remote_path: str) -> None:
        if remote_path.endswith("model.safetensors"):
            raise ConnectionError("the line broke")
        real(local_path, remote_path)

    monkeypatch.setattr(store.remote._fs, "put_file", cut)
    with pytest.raises(StoreUnreachable, match="the line broke"):
        make_artifact(store)
    monkeypatch.setattr(store.remote._fs, "put_file", real)
    assert objects(store) == {"model/config.json"}
    other = Store(tmp_path / "other", url)
    assert other.listed() == []
    (line, digest) = store.listed(local_only=True)[0]
    with pytest.raises(ArtifactMissing):
        other.get(line, digest)
    artifact = make_artifact(store)
    other.verify(artifact)


def test_remote_changes_are_rejected_on_download(store: Store, url: str, tmp_path: Path) -> None:
    artifact = make_artifact(store)
    assert store.remote
    store.remote._fs.pipe_file(store.remote._at("line", artifact.digest, "model/config.json"), b"[]")
    other = Store(tmp_path / "other", url)
    with pytest.raises(ArtifactDamaged, match=r"config\.json"):
        other.path(artifact)
    assert other.listed(local_only=True) == []
    assert not list((tmp_path / "other").rglob("config.json"))


def test_an_unsigned_remote_artifact_is_refused(store: Store, url: str, tmp_path: Path) -> None:
    artifact = make_artifact(store)
    assert store.remote
    store.remote._fs.rm(store.remote._at("line", artifact.digest, "manifest.sig"))
    other = Store(tmp_path / "other", url)
    with pytest.raises(ArtifactUnsigned):
        other.verify(artifact)
    store.sign(artifact)
    Store(tmp_path / "third", url).verify(artifact)


def test_a_manifest_with_paths_outside_the_store_is_rejected(tmp_path: Path) -> None:
    """Write access to the bucket must not give write access to this machine."""
    entry = FileEntry(path="../../../../evil", size_bytes=1, sha256=hashlib.sha256(b"x").hexdigest())
    digest = digest_of((entry,))
    artifact = Artifact(line="line", digest=digest, scheme="int8", repo="o/m", commit="c" * 40, size_bytes=1)
    planted = tmp_path / "shared/line" / digest
    planted.mkdir(parents=True)
    (planted / "manifest.json").write_bytes(Manifest(artifact=artifact, files=(entry,), facts={}).as_json())
    (tmp_path / "evil").write_bytes(b"x")
    with pytest.raises(ArtifactDamaged, match="evil"):
        Store(tmp_path / "home/store", f"file://{tmp_path}/shared").path(artifact)
    assert [path.name for path in tmp_path.rglob("evil")] == ["evil"]


def test_clean_frees_the_local_disk_and_leaves_the_bucket(store: Store) -> None:
    artifact = make_artifact(store)
    assert [removal.name for removal in clean(store, set()).removed] == [artifact.digest]
    assert not store.holds_locally("line", artifact.digest)
    store.verify(artifact)


def test_an_unreachable_store_is_reported(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Store(tmp_path / "store", "s3://no-such-bucket/models")
    with pytest.raises(StoreUnreachable, match=r"no-such-bucket|bucket"):
        make_artifact(missing)
    with pytest.raises(SettingsInvalid, match="cannot be used as a store"):
        Store(tmp_path / "store", "nosuch://x")


def test_a_mounted_folder_is_a_remote_store(tmp_path: Path) -> None:
    artifact = make_artifact(Store(tmp_path / "one", f"file://{tmp_path}/shared"))
    Store(tmp_path / "two", f"file://{tmp_path}/shared").verify(artifact)


def test_a_damaged_local_copy_is_fetched_again_from_a_sound_remote(tmp_path: Path) -> None:
    store = Store(tmp_path / "one", f"file://{tmp_path}/shared")
    artifact = make_artifact(store)
    rewrite(store.unverified_folder(artifact) / "model/config.json", "[]")
    with pytest.raises(ArtifactDamaged, match=r"config\.json"):
        store.verify(artifact)
    assert (store.path(artifact) / "config.json").read_text() == "{}"
    store.verify(artifact)


def test_a_damaged_remote_copy_is_named_and_repaired_by_a_push(tmp_path: Path) -> None:
    store = Store(tmp_path / "one", f"file://{tmp_path}/shared")
    artifact = make_artifact(store)
    rewrite(tmp_path / "shared/line" / artifact.digest / "model/config.json", "[]")
    other = Store(tmp_path / "two", f"file://{tmp_path}/shared")
    with pytest.raises(ArtifactDamaged, match=r"config\.json") as caught:
        other.path(artifact)
    assert "store push" in caught.value.next_step
    assert other.listed(local_only=True) == []
    store.push(artifact)
    other.path(artifact)


def test_what_an_altered_remote_manifest_says_is_told_to_nobody(tmp_path: Path) -> None:
    artifact = make_artifact(Store(tmp_path / "one", f"file://{tmp_path}/shared"))
    other = Store(tmp_path / "two", f"file://{tmp_path}/shared")
    assert other.facts(artifact) == {"made_by": "quantize"}
    manifest = tmp_path / "shared/line" / artifact.digest / "manifest.json"
    manifest.write_text(manifest.read_text().replace("quantize", "download"))
    with pytest.raises(ArtifactDamaged, match="altered after it was signed"):
        other.facts(artifact)


def test_a_damaged_copy_here_and_there_is_given_to_nobody(tmp_path: Path) -> None:
    store = Store(tmp_path / "one", f"file://{tmp_path}/shared")
    artifact = make_artifact(store)
    for folder in (store.unverified_folder(artifact), tmp_path / "shared/line" / artifact.digest):
        rewrite(folder / "model/config.json", "[]")
    with pytest.raises(ArtifactDamaged):
        store.path(artifact)
    with pytest.raises(ArtifactDamaged):
        store.push(artifact)
    make_artifact(store)
    store.push(artifact)
    Store(tmp_path / "two", f"file://{tmp_path}/shared").path(artifact)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "model/config.json"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_no_plain_file_in_a_mounted_store_is_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    artifact = make_artifact(Store(tmp_path / "one", f"file://{tmp_path}/shared"))
    place = tmp_path / "shared/line" / artifact.digest / name
    place.rename(tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises((ArtifactDamaged, ArtifactMissing, ArtifactUnsigned)):
        Store(tmp_path / "two", f"file://{tmp_path}/shared").path(artifact)


@pytest.mark.parametrize("line", ["..", "li ne", "\x1b[31m", ".hidden"])
def test_a_strangers_key_in_a_remote_store_is_not_listed(tmp_path: Path, line: str) -> None:
    artifact = make_artifact(Store(tmp_path / "one", f"file://{tmp_path}/top/shared"))
    folder = tmp_path / "top/shared" / line
    for place in (folder / artifact.digest, tmp_path / "top/shared/line/no-digest"):
        place.mkdir(parents=True)
        (place / "manifest.json").write_text("{}")
    assert Store(tmp_path / "two", f"file://{tmp_path}/top/shared").listed() == [("line", artifact.digest)]


@examples()
@given(st.data())
def test_a_mutated_manifest_is_read_or_refused_by_name(data: st.DataObject) -> None:
    """It may come from a store that others can write to."""
    files = (FileEntry(path="config.json", size_bytes=2, sha256=hashlib.sha256(b"{}").hexdigest()),)
    digest = digest_of(files)
    artifact = Artifact(line="line", digest=digest, scheme="int8", repo="o/m", commit="c" * 40, size_bytes=2)
    made = provenance_of("quantize", parameters={}, inputs=[artifact.as_input], versions={})
    valid = Manifest(artifact=artifact, files=files, facts={"made_by": "x"}, provenance=made)
    content = json.dumps(data.draw(documents(json.loads(valid.as_json())))).encode()
    content = data.draw(st.sampled_from([content, content[: len(content) // 2], content.replace(b"{", b"[", 1)]))
    with suppress(ArtifactDamaged):
        read = read_manifest(content, "line", digest, "here")
        assert read.files == files
