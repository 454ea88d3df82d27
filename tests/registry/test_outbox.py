"""The outbox keeps releases while MLflow does not answer."""

from __future__ import annotations

import json
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.models.outbox import Outbox
from registry.models.records import DatasetRecord, ReleaseRecord
from registry.models.registry import Registry
from tests.support.mutation import examples, json_files
from weighbridge.errors import DiskFull, OutboxDamaged


def test_an_outbox_keeps_every_file_byte_for_byte(tmp_path: Path, release: Callable[..., ReleaseRecord]) -> None:
    (tmp_path / "on-disk.txt").write_text("on the disk")
    record = release(line="toy")
    first = record.candidates[0].model_copy(
        update={"files": {"a/text.md": "Grüße", "plot.png": b"\x89PNG\xff", "log.txt": tmp_path / "on-disk.txt"}}
    )
    Outbox().add(record.model_copy(update={"candidates": (first, *record.candidates[1:])}))
    [stored] = Outbox().waiting("toy")
    files = {name: path.read_bytes() for name, path in stored.candidates[0].files.items() if isinstance(path, Path)}
    assert files == {"a/text.md": "Grüße".encode(), "plot.png": b"\x89PNG\xff", "log.txt": b"on the disk"}
    bare: dict[str, object] = {"files": {}}
    assert [candidate.model_copy(update=bare) for candidate in stored.candidates] == [
        candidate.model_copy(update=bare) for candidate in (first, *record.candidates[1:])
    ]
    assert Outbox().waiting("other") == []


def test_a_kill_between_recording_and_removal_records_once(
    registry: Registry, release: Callable[..., ReleaseRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox()
    outbox.add(release())
    with monkeypatch.context() as killed:
        killed.setattr(Outbox, "remove", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            outbox.deliver(registry, "toy")
    assert len(outbox.waiting("toy")) == 1
    said: list[str] = []
    [delivered] = outbox.deliver(registry, "toy", said.append)
    assert delivered == registry.record_release(release())
    assert len(registry.candidates("toy")) == 2 and len(said) == 1
    assert outbox.waiting("toy") == []


def test_suites_are_inputs_of_a_candidate_s_run(registry: Registry, release: Callable[..., ReleaseRecord]) -> None:
    suites = (DatasetRecord(name="general/choice", digest="d" * 64, source="eval_suites/general/choice"),)
    record = release()
    record = record.model_copy(
        update={
            "candidates": tuple(candidate.model_copy(update={"datasets": suites}) for candidate in record.candidates)
        }
    )
    recorded = registry.record_release(record)
    run = registry.client.get_run(recorded.candidates[0].run_id)
    [given] = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.source) == ("general/choice", "eval_suites/general/choice")


@examples()
@given(data=st.data())
def test_no_record_makes_the_reader_raise_anything_but_a_named_error(
    data: st.DataObject, release: Callable[..., ReleaseRecord]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        outbox = Outbox(Path(name))
        outbox.add(release(line="toy"))
        [path] = Path(name).glob("toy/*/record.json")
        path.write_bytes(data.draw(json_files(json.loads(path.read_text()))))
        try:
            outbox.waiting("toy")
        except OutboxDamaged as error:
            assert error.where == str(path)


def test_a_full_disk_leaves_the_earlier_record(tmp_path: Path, release: Callable[..., ReleaseRecord]) -> None:
    outbox = Outbox(tmp_path)
    outbox.add(record := release(line="toy"))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        with pytest.raises(DiskFull):
            outbox.add(record)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert len(outbox.waiting("toy")) == 1 and not list((tmp_path / "toy").glob(".*"))
