"""Every fault of docs/explanation/source.md: success after resuming, or a named error and nothing in the store."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from examples.faults import FOR_EVER, Fault
from examples.hub_repository import misname, swap_content
from registry.store import Store
from tasks.source.admission import admit
from tasks.source.download import download
from tasks.source.pinned import Source
from tasks.source.provider import pin
from weighbridge.errors import SourceDamaged, SourceRefused, SourceStalled, SourceUnknown, SourceUnreachable
from weighbridge.line import Line

SHARD = "model-00001-of-00002.safetensors"
REPO = "acme/tiny"


@pytest.fixture(autouse=True)
def short_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.source.client.STALL_SECONDS", 0.3)


@pytest.fixture
def source(hub: Any, release: Path, line: Line) -> Source:
    hub.publish(release)
    return pin(hub.installation, line)


def succeeds(hub: Any, source: Source, store: Store) -> None:
    """The download succeeds and the artifact is complete."""
    artifact = download(hub.provider, source, "tiny", store)
    store.verify(artifact)
    assert {path.name for path in store.path(artifact).iterdir()} == {file.path for file in source.files}


def fails(hub: Any, store: Store, source: Source, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        download(hub.provider, source, "tiny", store)
    assert store.listed() == []
    shown = {path.parent.name for path in store.folder.rglob("*.safetensors")}
    assert all(".staging" in str(path) for path in store.folder.rglob("*.safetensors")), shown


@pytest.mark.parametrize("at", [0, 1, 7, 4096, 100_000])
def test_cut_at_byte_k(hub: Any, source: Source, store: Store, at: int) -> None:
    for path in (f"/cdn/*{SHARD}", "*/resolve/*/README.md"):
        hub.faults.add(Fault(path, cut_after_bytes=at, times=2))
    succeeds(hub, source, store)
    assert hub.faults.sent_bytes("/cdn/*") == sum(file.size_bytes for file in source.files if file.is_weights)


def test_cut_every_time_at_the_first_byte(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", cut_after_bytes=0, times=FOR_EVER))
    fails(hub, store, source, SourceUnreachable, "did not answer")


def test_cut_so_often_that_the_retry_budget_would_be_spent_without_progress(
    hub: Any, source: Source, store: Store
) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", cut_after_bytes=20_000, times=9))
    succeeds(hub, source, store)


def test_429_is_waited_for_as_long_as_it_asks(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"*/resolve/*/{SHARD}", status=429, headers={"Retry-After": "1"}))
    began = time.monotonic()
    succeeds(hub, source, store)
    assert time.monotonic() - began >= 1


def test_429_in_the_words_of_the_hub(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"*/resolve/*/{SHARD}", status=429, headers={"RateLimit": '"resolvers";r=0;t=1'}))
    began = time.monotonic()
    succeeds(hub, source, store)
    assert time.monotonic() - began >= 1


def test_429_that_asks_for_an_hour_is_not_waited_for(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault("*/resolve/*", status=429, headers={"Retry-After": "3600"}, times=FOR_EVER))
    began = time.monotonic()
    fails(hub, store, source, SourceUnreachable, "answered 429")
    assert time.monotonic() - began < 5


def test_503_twice(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", status=503, times=2))
    succeeds(hub, source, store)


def test_503_for_ever(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", status=503, times=FOR_EVER))
    fails(hub, store, source, SourceUnreachable, "answered 503")


def test_wrong_bytes_once(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", damaged=True))
    succeeds(hub, source, store)


def test_wrong_bytes_for_ever(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", damaged=True, times=FOR_EVER))
    fails(hub, store, source, SourceDamaged, f"{SHARD}.* arrived twice .* sha256")


def test_truncated_once(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", truncated_to_bytes=1000))
    succeeds(hub, source, store)


def test_truncated_for_ever_is_seen_before_it_is_fetched(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", truncated_to_bytes=1000, times=FOR_EVER))
    fails(hub, store, source, SourceDamaged, f"{SHARD}.* sends 1000 bytes instead of")


def test_truncated_while_it_is_fetched(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", cut_after_bytes=5000))
    hub.faults.add(Fault(f"/cdn/*{SHARD}", truncated_to_bytes=1000))
    succeeds(hub, source, store)


def test_a_hang_is_ended_and_resumed(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", hang_after_bytes=50_000, times=2))
    succeeds(hub, source, store)
    assert hub.faults.sent_bytes("/cdn/*") == sum(file.size_bytes for file in source.files if file.is_weights)


def test_a_hang_for_ever_is_named(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"/cdn/*{SHARD}", hang_after_bytes=0, times=FOR_EVER))
    began = time.monotonic()
    fails(hub, store, source, SourceStalled, r"sent nothing for 0.3 s, 5 times")
    assert time.monotonic() - began < 10


def test_a_file_that_no_longer_matches_its_commit_is_refused(hub: Any, source: Source, store: Store) -> None:
    path = hub.root / REPO / source.commit / SHARD
    content = path.read_bytes()
    swap_content(hub.root, REPO, source.commit, SHARD, content[:-1] + bytes([content[-1] ^ 1]))
    fails(hub, store, source, SourceDamaged, f"{SHARD}.* sha256")
    swap_content(hub.root, REPO, source.commit, SHARD, content + b"more")
    fails(hub, store, source, SourceDamaged, f"{SHARD}.* bytes instead of")
    swap_content(hub.root, REPO, source.commit, SHARD, content)
    succeeds(hub, source, store)


def test_a_file_that_changes_while_it_is_fetched(hub: Any, source: Source, store: Store) -> None:
    """The first half is of one file and the second of another: both halves are thrown away."""
    content = (hub.root / REPO / source.commit / SHARD).read_bytes()

    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done > total / 2:
            raise Killed

    swap_content(hub.root, REPO, source.commit, SHARD, content[:8] + b"\0" + content[9:])
    with pytest.raises(Killed):
        download(hub.provider, source, "tiny", store, kill)
    swap_content(hub.root, REPO, source.commit, SHARD, content)
    succeeds(hub, source, store)


def test_a_partial_file_damaged_on_the_disk_is_fetched_again(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault("/cdn/*-00002-of*", status=500, times=FOR_EVER))
    with pytest.raises(SourceUnreachable):
        download(hub.provider, source, "tiny", store)
    hub.faults.clear()
    whole = next(path for path in store.folder.rglob(SHARD))
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    whole.write_bytes(content)
    hub.faults.add(Fault(f"/cdn/*{SHARD}", damaged=True))
    succeeds(hub, source, store)


def test_a_missing_shard_is_named(hub: Any, source: Source, store: Store) -> None:
    hub.faults.add(Fault(f"*/resolve/*{SHARD}", status=404, times=FOR_EVER))
    fails(hub, store, source, SourceUnknown, "no repository|no file")


def test_an_index_that_names_a_missing_file_is_refused(hub: Any, release: Path, line: Line, store: Store) -> None:
    (release / SHARD).unlink()
    hub.publish(release)
    fails(hub, store, pin(hub.installation, line), SourceDamaged, f"it names {SHARD}")
    assert hub.faults.sent_bytes("/cdn/*") == 0


def test_an_index_that_maps_a_tensor_to_the_wrong_file(hub: Any, release: Path, line: Line, store: Store) -> None:
    path = release / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], SHARD)
    path.write_text(json.dumps(index))
    hub.publish(release)
    fails(hub, store, pin(hub.installation, line), SourceDamaged, "tensors are not where it says")


def test_a_tensor_that_lies_in_two_files(hub: Any, release: Path, line: Line, store: Store) -> None:
    (release / "model-00002-of-00002.safetensors").write_bytes((release / SHARD).read_bytes())
    hub.publish(release)
    fails(hub, store, pin(hub.installation, line), SourceDamaged, "as model-00001-of-00002.safetensors does")


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(extra={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}),
        lambda header: header[min(header)].update(dtype="Q9"),
        lambda header: header[min(header)].update(shape=[1, 2, 3]),
        lambda header: header[min(header)].update(data_offsets=[0, 10**15]),
    ],
    ids=["overlap", "dtype", "shape", "offsets"],
)
def test_a_wrong_header_is_refused(hub: Any, release: Path, line: Line, store: Store, change: Any) -> None:
    path = release / SHARD
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    hub.publish(release)
    fails(hub, store, pin(hub.installation, line), SourceDamaged, f"{SHARD} is damaged")


def test_a_header_that_claims_to_be_longer_than_its_file(hub: Any, release: Path, line: Line, store: Store) -> None:
    path = release / SHARD
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])
    hub.publish(release)
    fails(hub, store, pin(hub.installation, line), SourceDamaged, "its header claims 1099511627776 bytes")


@pytest.mark.parametrize(
    "name",
    ["../tokenizer.json", "/etc/tokenizer.json", "..\\tokenizer.json", "C:\\tokenizer.json", "a\0b", "CONFIG.json"],
)
def test_a_path_outside_the_folder_is_refused_before_the_download(
    hub: Any, source: Source, line: Line, store: Store, tmp_path: Path, name: str
) -> None:
    misname(hub.root, REPO, source.commit, "README.md", name)
    misnamed = pin(hub.installation, line)
    assert name in {*(file.path for file in misnamed.files), *misnamed.ignored}
    with pytest.raises(SourceRefused, match=r"leads out|are one on some disks"):
        admit(misnamed, line)
    evil = source.files[0].model_copy(update={"path": name})
    hub.faults.served.clear()
    fails(
        hub, store, source.model_copy(update={"files": (*source.files, evil)}), SourceRefused, "leads out|one on some"
    )
    assert hub.faults.served == []
    assert not list(tmp_path.rglob("tokenizer.json"))
