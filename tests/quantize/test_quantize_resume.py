"""A release in several files: a killed run is resumed after the finished ones, and unfinished files are discarded."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from registry.installation import Installation
from registry.store import Store, clean
from tasks.quantize import quantize, scheme
from tasks.quantize.methods import rtn
from tasks.quantize.plan.recipe import make_recipe
from tasks.quantize.process.job import ChildError, Job, Message
from tasks.quantize.process.shards import FinishedShards
from tasks.quantize.tensors import read_tensors
from tests.quantize.quantize_support import SHARDS, stand_in, write_sharded
from weighbridge.errors import DiskFull, QuantizationFailed, QuantizationInterrupted, QuantizationUncovered

LAYERS = 14


@pytest.fixture
def sharded(store: Store, tmp_path: Path) -> Any:
    folder = write_sharded(tmp_path / "sharded")
    return store.adopt(folder, line="tiny", scheme="bf16", repo="test/tiny", commit="0" * 40)


def _staging(store: Store) -> Path:
    (folder,) = store.folder.glob("*/.staging/*")
    return folder


def _finished(store: Store) -> list[Path]:
    return sorted((_staging(store) / "model").glob("*.safetensors"))


def test_files_and_index_mirror_the_source(store: Store, sharded: Any) -> None:
    made = quantize(Installation.load(), sharded, "int4")
    source, out = store.path(sharded), store.path(made)
    assert sorted(path.name for path in out.glob("*.safetensors")) == sorted(
        path.name for path in source.glob("*.safetensors")
    )
    index = json.loads((out / "model.safetensors.index.json").read_text())
    tensors = read_tensors(out)
    assert index["weight_map"] == {tensor.name: tensor.file.name for tensor in tensors}
    assert index["metadata"]["total_size"] == sum(tensor.size_bytes for tensor in tensors)
    store.verify(made)


def test_a_killed_run_resumes_after_the_finished_files(
    store: Store, sharded: Any, dying: Callable[[int], AbstractContextManager[None]]
) -> None:
    with dying(LAYERS), pytest.raises(QuantizationInterrupted, match="finished files are kept"):
        quantize(Installation.load(), sharded, "int8")
    kept = _finished(store)
    assert len(kept) == SHARDS - 1
    assert store.artifacts() == [sharded]
    assert not (_staging(store) / "model" / "config.json").exists(), "nothing that looks like a model"
    before = {path.name: path.stat().st_ino for path in kept}
    progress: list[tuple[int, int]] = []
    made = quantize(Installation.load(), sharded, "int8", progress=lambda done, total: progress.append((done, total)))
    after = {path.name: path.stat().st_ino for path in store.path(made).glob("*.safetensors")}
    assert before.items() <= after.items(), "the same files, not written again"
    assert progress[-1] == (LAYERS + 2, LAYERS + 2)
    assert not list(store.folder.glob("*/.staging/*"))
    store.verify(made)


def test_a_resumed_run_has_the_digest_of_an_uninterrupted_run(
    store: Store,
    sharded: Any,
    dying: Callable[[int], AbstractContextManager[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with dying(9), pytest.raises(QuantizationInterrupted):
        quantize(Installation.load(), sharded, "int4")
    resumed = quantize(Installation.load(), sharded, "int4")
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "other"))
    other = Store()
    folder = write_sharded(tmp_path / "again")
    again = other.adopt(folder, line="tiny", scheme="bf16", repo="test/tiny", commit="0" * 40)
    assert quantize(Installation.load(), again, "int4").digest == resumed.digest


def test_a_finished_file_that_was_altered_is_written_again(
    store: Store, sharded: Any, dying: Callable[[int], AbstractContextManager[None]]
) -> None:
    with dying(LAYERS), pytest.raises(QuantizationInterrupted):
        quantize(Installation.load(), sharded, "int8")
    first = _finished(store)[0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    store.verify(quantize(Installation.load(), sharded, "int8"))


def test_store_clean_removes_abandoned_work(
    store: Store, sharded: Any, dying: Callable[[int], AbstractContextManager[None]]
) -> None:
    with dying(LAYERS), pytest.raises(QuantizationInterrupted):
        quantize(Installation.load(), sharded, "int8")
    assert _finished(store)
    clean(store, {sharded.digest})
    assert not list(store.folder.glob("*/.staging/*"))


def test_finished_files_of_another_recipe_are_not_reused(tmp_path: Path) -> None:
    source = write_sharded(tmp_path / "release")

    def run(name: str, identity: str) -> FinishedShards:
        job = Job(
            source=source, out=tmp_path / "out" / "model", recipe=make_recipe(source, scheme(name)), identity=identity
        )
        rtn.quantize(job, lambda: None)
        return FinishedShards.load(tmp_path / "out", identity)

    eight, four = run("int8", "eight"), run("int4", "four")
    assert eight.shards.keys() == four.shards.keys()
    assert all(eight.shards[name].sha256 != four.shards[name].sha256 for name in eight.shards)


def test_a_disk_that_becomes_full_is_named_and_finished_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_sharded(tmp_path / "release")
    job = Job(source=source, out=tmp_path / "out" / "model", recipe=make_recipe(source, scheme("int8")), identity="one")
    real, written = os.pwrite, 0

    def pwrite(file: int, data: bytes, at: int) -> int:
        nonlocal written
        written += 1
        if written > 25:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data, at)

    monkeypatch.setattr("tasks.quantize.process.shards.os.pwrite", pwrite)
    with pytest.raises(DiskFull, match=r"full while model-0000\d-of-00003\.safetensors was written"):
        rtn.quantize(job, lambda: None)
    names = sorted(path.name for path in job.out.iterdir())
    assert names == sorted(FinishedShards.load(tmp_path / "out", "one").shards)
    assert 0 < len(names) < SHARDS
    monkeypatch.undo()
    rtn.quantize(job, lambda: None)
    assert len(list(job.out.glob("*.safetensors"))) == SHARDS


def test_too_little_disk_for_a_file_is_found_before_its_first_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_sharded(tmp_path / "release")
    job = Job(source=source, out=tmp_path / "out" / "model", recipe=make_recipe(source, scheme("int8")))

    def fallocate(file: int, at: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tasks.quantize.process.shards.os.posix_fallocate", fallocate, raising=False)
    with pytest.raises(DiskFull):
        rtn.quantize(job, lambda: pytest.fail("a layer was rounded"))
    assert not list(job.out.iterdir())


def test_a_named_error_of_the_child_process_is_raised_by_the_parent(
    store: Store, sharded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staged: Callable[[Store], list[str]]
) -> None:
    failure = ChildError.of(DiskFull("The disk became full.", "Free some.", where="there"))
    line = Message(layers_done=3, failure=failure).model_dump_json()
    stand_in(tmp_path, monkeypatch, f"echo '{line}'; exit 7")
    with pytest.raises(DiskFull, match=r"became full") as full:
        quantize(Installation.load(), sharded, "int8")
    assert (full.value.where, full.value.next_step) == ("there", "Free some.")
    assert staged(store) == [], "no file was finished, so nothing is worth keeping"


@pytest.mark.parametrize("code", ["WeighbridgeError", "Path", "no_such_error"])
def test_only_named_errors_are_raised_by_name(code: str) -> None:
    failure = ChildError(code=code, what="a", next_step="b", where="c")
    assert type(failure.error()).__name__ == "WeighbridgeError"


def test_a_source_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    source = write_sharded(tmp_path / "release")
    recipe = make_recipe(source, scheme("int8"))
    job = Job(source=source, out=tmp_path / "out" / "model", recipe=recipe)
    weights = source / f"model-00001-of-0000{SHARDS}.safetensors"

    def shrink() -> None:
        os.truncate(weights, weights.stat().st_size - 10_000)

    with pytest.raises(QuantizationFailed, match="ended while it was read"):
        rtn.quantize(job, shrink)


def test_a_wrong_file_recorded_as_finished_fails_the_check(
    store: Store, sharded: Any, dying: Callable[[int], AbstractContextManager[None]]
) -> None:
    """The ledger says which bytes were written; whether they are right the coverage check says."""
    with dying(LAYERS), pytest.raises(QuantizationInterrupted):
        quantize(Installation.load(), sharded, "int8")
    staging = _staging(store)
    ledger = json.loads((staging / "finished.json").read_text())
    first, second = sorted(ledger["shards"])
    (staging / "model" / first).write_bytes((staging / "model" / second).read_bytes())
    ledger["shards"][first] = ledger["shards"][second]
    (staging / "finished.json").write_text(json.dumps(ledger))
    with pytest.raises((QuantizationUncovered, QuantizationFailed)):
        quantize(Installation.load(), sharded, "int8")
    assert not list(store.folder.glob("*/.staging/*"))
