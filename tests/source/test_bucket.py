"""A bucket as a source, on a real S3-compatible server: pinned, copied and refused as a folder is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from registry.store import Store
from tasks.fit.model.shape import shape_of
from tasks.source.admission import admit
from tasks.source.download import download
from tasks.source.provider import Provider, provider_of
from tests.support.object_store import object_store
from weighbridge.errors import SourceChanged, SourceRefused, SourceUnknown, SourceUnreachable
from weighbridge.line import Line
from weighbridge.settings import load_settings

URL = "s3://models/team/tiny"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with object_store() as endpoint:
        yield endpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.build(tmp_path / "model", shards=2)


@pytest.fixture
def client(server: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server, whose bucket holds the model and nothing else."""
    import boto3

    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WEIGHBRIDGE_SOURCE_S3_ENDPOINT", server)
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="models")
    for found in client.list_objects_v2(Bucket="models").get("Contents", ()):
        client.delete_object(Bucket="models", Key=found["Key"])
    upload(client, model)
    return client


def upload(client: Any, folder: Path, **options: str) -> None:
    for path in folder.iterdir():
        client.put_object(Bucket="models", Key=f"team/tiny/{path.name}", Body=path.read_bytes(), **options)


def bucket() -> Provider:
    return provider_of(load_settings(), URL)


def line() -> Line:
    return Line.model_validate(
        {
            "name": "tiny",
            "source": URL,
            "admission": {"licences": ["apache-2.0"]},
            "schemes": ["bf16"],
            "target": {"gpus": ["host"]},
            "suites": [{"name": "general/agreement"}],
        }
    )


def reads(provider: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The objects of which anything is read from now on."""
    read, blocks = list[str](), type(provider).blocks

    def counted(self: Any, path: str, *rest: int) -> Any:
        read.append(path)
        return blocks(self, path, *rest)

    monkeypatch.setattr(type(provider), "blocks", counted)
    return read


def test_a_bucket_has_the_commit_of_the_same_folder_and_is_copied_whole(
    client: Any, model: Path, tmp_path: Path
) -> None:
    client.put_object(Bucket="models", Key="team/tiny/checkpoint-1/model.safetensors", Body=b"x")
    source = bucket().pin()
    assert source.commit == provider_of(load_settings(), model.as_uri()).pin().commit
    assert "checkpoint-1" in source.ignored
    admit(source, line())
    store = Store(tmp_path / "store")
    artifact = download(bucket(), source, "tiny", store)
    assert artifact.digest == source.commit and artifact.repo == URL
    held = {path.name: path.read_bytes() for path in store.path(artifact).iterdir()}
    assert held == {path.name: path.read_bytes() for path in model.iterdir() if path.name in held}


def test_fit_and_an_unchanged_bucket_read_no_weights(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.source.providers._hashes.SETTLED_SECONDS", -60.0)
    assert shape_of(load_settings(), URL).origin == "headers"
    commit = bucket().pin().commit
    read = reads(bucket(), monkeypatch)
    assert bucket().pin().commit == commit
    assert not [path for path in read if path.endswith(".safetensors")]


def test_a_sha256_that_the_server_states_spares_the_reading_and_is_checked_at_the_copy(
    client: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bucket().pin().commit
    upload(client, model, ChecksumAlgorithm="SHA256")
    read = reads(bucket(), monkeypatch)
    source = bucket().pin()
    assert source.commit == expected
    assert not [path for path in read if path.endswith(".safetensors")]
    monkeypatch.setattr("tasks.source.providers.s3.Provider._stated_sha256", lambda self, path: "0" * 64)
    upload(client, model)
    with pytest.raises(SourceChanged, match="of s3://models/team/tiny changed"):
        bucket().pin()


def test_an_object_that_changes_before_its_copy_is_refused_by_name(client: Any, model: Path, tmp_path: Path) -> None:
    source, store = bucket().pin(), Store(tmp_path / "store")
    content = (model / "model-00002-of-00002.safetensors").read_bytes()
    client.put_object(
        Bucket="models", Key="team/tiny/model-00002-of-00002.safetensors", Body=content[:-1] + bytes([content[-1] ^ 1])
    )
    with pytest.raises(SourceChanged, match=r"model-00002-of-00002\.safetensors"):
        download(bucket(), source, "tiny", store)
    client.delete_object(Bucket="models", Key="team/tiny/model-00002-of-00002.safetensors")
    with pytest.raises(SourceChanged, match="is gone"):
        download(bucket(), source, "tiny", store)
    assert store.artifacts() == []


@pytest.mark.parametrize(
    ("key", "says"),
    [("model\x07.safetensors", "has characters"), ("ReadMe.md", "are one on some disks"), ("a\\b", "has characters")],
)
def test_a_hostile_key_is_refused_by_name(client: Any, key: str, says: str) -> None:
    client.put_object(Bucket="models", Key=f"team/tiny/{key}", Body=b"x")
    with pytest.raises(SourceRefused, match=says):
        admit(bucket().pin(), line())


def test_what_is_not_there_or_does_not_answer_is_a_named_error(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    with pytest.raises(SourceUnknown, match="nothing at s3://models/none"):
        provider_of(settings, "s3://models/none").pin()
    with pytest.raises(SourceUnknown, match="holds no model"):
        provider_of(settings, "s3://models/team").pin()
    with pytest.raises(SourceUnknown, match=r"404 NoSuchBucket"):
        provider_of(settings, "s3://other/tiny").pin()
    monkeypatch.setattr("tasks.source.providers.s3.ATTEMPTS", 1)
    monkeypatch.setenv("WEIGHBRIDGE_SOURCE_S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceUnreachable, match="did not answer"):
        bucket().pin()
