"""Downloads: complete and verified, resumed after a cut, and nothing visible after a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from examples.faults import FOR_EVER, Fault
from registry.signing import KeyPair
from registry.store import Store
from tasks.source.download import download
from tasks.source.provider import pin
from weighbridge.errors import DiskFull, SigningKeyUnusable, SourceDamaged, SourceUnreachable
from weighbridge.line import Line

BIG = "*model-00001-of-00002.safetensors"
BLOCK_BYTES = 64 * 1024


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the client writes at once: 10 MB, more than the tiny release.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", BLOCK_BYTES)


def test_a_release_is_downloaded_completely(hub: Any, release: Path, line: Line, store: Store) -> None:
    commit = hub.publish(release)
    source = pin(hub.installation, line)
    calls: list[tuple[int, int]] = []
    artifact = download(hub.provider, source, "tiny", store, lambda done, total: calls.append((done, total)))
    assert (artifact.scheme, artifact.commit, artifact.size_bytes) == ("bf16", commit, source.size_bytes)
    assert {path.name for path in store.path(artifact).iterdir()} == {file.path for file in source.files}
    store.verify(artifact)
    assert calls[-1] == (source.size_bytes, source.size_bytes)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls) and len(calls) > 6


def test_a_second_download_fetches_nothing(hub: Any, release: Path, line: Line, store: Store) -> None:
    hub.publish(release)
    source = pin(hub.installation, line)
    artifact = download(hub.provider, source, "tiny", store)
    before = len(hub.faults.served)
    assert download(hub.provider, source, "tiny", store) == artifact
    assert len(hub.faults.served) == before


@pytest.mark.parametrize("harm", ["altered", "added", "unsigned", "manifest"])
def test_a_release_altered_in_the_store_is_downloaded_again(
    hub: Any, release: Path, line: Line, store: Store, harm: str
) -> None:
    hub.publish(release)
    source = pin(hub.installation, line)
    artifact = download(hub.provider, source, "tiny", store)
    folder = store.unverified_folder(artifact)
    weights = next((folder / "model").glob("*.safetensors"))
    right = weights.read_bytes()
    if harm == "altered":  # of the same size, with a sound header
        weights.chmod(0o600)
        weights.write_bytes(right[:-1] + bytes([right[-1] ^ 0x80]))
    elif harm == "added":
        (folder / "model/chat_template.jinja").write_text("{{ 'evil' }}")
    else:
        (folder / ("manifest.sig" if harm == "unsigned" else "manifest.json")).write_text("{}")
    before = len(hub.faults.served)
    assert download(hub.provider, source, "tiny", store) == artifact
    assert len(hub.faults.served) > before
    store.verify(artifact)
    assert weights.read_bytes() == right


def test_what_could_not_be_signed_is_adopted_once_there_is_a_key(
    hub: Any, release: Path, line: Line, store: Store
) -> None:
    """The first attempt leaves read-only files, which only root writes to all the same."""
    hub.publish(release)
    source = pin(hub.installation, line)
    keyless = Store(store.folder, keys=KeyPair(store.folder.parent / "keys", private=str(store.folder / "missing.key")))
    with pytest.raises(SigningKeyUnusable):
        download(hub.provider, source, "tiny", keyless)
    store.verify(download(hub.provider, source, "tiny", store))


def test_a_downloads_manifest_names_the_published_commit(hub: Any, release: Path, line: Line, store: Store) -> None:
    hub.publish(release)
    source = pin(hub.installation, line)
    artifact = download(hub.provider, source, "tiny", store, invocation="run-1")
    provenance = store.manifest("tiny", artifact.digest).provenance
    assert provenance is not None
    (origin,) = provenance.build_definition.resolved_dependencies
    assert (origin.uri, origin.digest) == (f"hf://{source.repo}@{source.commit}", {"gitCommit": source.commit})
    assert provenance.run_details.metadata.invocation_id == "run-1"


def test_a_killed_download_resumes_where_it_stopped(hub: Any, tmp_path: Path, line: Line, store: Store) -> None:
    folder = tiny.build(tmp_path / "big", vocab_size=8192)
    hub.publish(folder)
    source = pin(hub.installation, line)
    size = (folder / "model.safetensors").stat().st_size

    class Killed(BaseException):
        pass

    def kill_midway(done: int, total: int) -> None:
        if done > total / 2:
            raise Killed

    with pytest.raises(Killed):
        download(hub.provider, source, "tiny", store, kill_midway)
    assert store.artifacts() == []
    partial = next(store.folder.rglob("model.safetensors")).stat().st_size
    assert partial > size / 3
    hub.faults.served.clear()
    artifact = download(hub.provider, source, "tiny", store)
    store.verify(artifact)
    assert hub.faults.sent_bytes("/cdn/*") == size - partial
    assert hub.faults.sent_bytes() == size - partial, "the small files were there already"


def test_a_cut_connection_is_resumed(hub: Any, tmp_path: Path, line: Line, store: Store) -> None:
    folder = tiny.build(tmp_path / "big", vocab_size=8192)
    hub.publish(folder)
    source = pin(hub.installation, line)
    hub.faults.add(Fault("/cdn/*", cut_after_bytes=600_000))
    store.verify(download(hub.provider, source, "tiny", store))
    size = (folder / "model.safetensors").stat().st_size
    assert hub.faults.sent_bytes("/cdn/*") == size, "what had come was not fetched again"


@pytest.mark.parametrize(("path", "hash_name"), [(f"/cdn/{BIG}", "sha256"), ("*/tokenizer_config.json", "sha1")])
def test_a_file_that_stays_damaged_leaves_nothing_visible(
    hub: Any, release: Path, line: Line, store: Store, path: str, hash_name: str
) -> None:
    hub.publish(release)
    source = pin(hub.installation, line)
    hub.faults.add(Fault(path, damaged=True, times=FOR_EVER))
    with pytest.raises(SourceDamaged, match=rf"arrived twice.*{hash_name}"):
        download(hub.provider, source, "tiny", store)
    assert store.artifacts() == []
    hub.faults.clear()
    store.verify(download(hub.provider, source, "tiny", store))


def test_received_bytes_are_kept_when_the_hub_disappears(hub: Any, release: Path, line: Line, store: Store) -> None:
    hub.publish(release)
    source = pin(hub.installation, line)
    hub.faults.add(Fault("/cdn/*-00002-of*", status=500, times=FOR_EVER))
    with pytest.raises(SourceUnreachable, match="answered 500"):
        download(hub.provider, source, "tiny", store)
    assert store.artifacts() == []
    hub.faults.clear()
    hub.faults.served.clear()
    download(hub.provider, source, "tiny", store)
    assert {Path(request.path).name for request in hub.faults.served} == {"model-00002-of-00002.safetensors"}


def test_too_small_a_disk_is_reported_before_the_download(
    hub: Any, release: Path, line: Line, store: Store, monkeypatch: Any
) -> None:
    hub.publish(release)
    source = pin(hub.installation, line)
    hub.faults.served.clear()
    monkeypatch.setattr("tasks.source.download.SPARE_BYTES", 2**60)
    with pytest.raises(DiskFull, match="WEIGHBRIDGE_HOME"):
        download(hub.provider, source, "tiny", store)
    assert hub.faults.served == []


def test_weights_that_are_published_broken_are_not_adopted(hub: Any, release: Path, line: Line, store: Store) -> None:
    path = release / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    hub.publish(release)
    with pytest.raises(SourceDamaged, match=r"does not lie|bytes and"):
        download(hub.provider, pin(hub.installation, line), "tiny", store)
    assert store.artifacts() == []


def test_the_scheme_is_that_of_the_config(hub: Any, tmp_path: Path, line: Line, store: Store) -> None:
    hub.publish(tiny.build(tmp_path / "half", dtype="float16"))
    assert download(hub.provider, pin(hub.installation, line), "tiny", store).scheme == "fp16"
    hub.publish(tiny.build(tmp_path / "gptq", quantization_config={"quant_method": "gptq", "bits": 4}))
    assert download(hub.provider, pin(hub.installation, line), "tiny", store).scheme == "gptq"
    hub.publish(tiny.build(tmp_path / "silent", dtype=None))
    assert download(hub.provider, pin(hub.installation, line), "tiny", store).scheme == "bf16"
