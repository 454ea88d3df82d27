"""Prefect reads no result but those that this installation stored, and runs nothing that a stored result names."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any
from uuid import uuid4

import prefect.results
import pytest
from prefect.client.schemas.objects import State, StateType
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultRecordMetadata, ResultStore
from prefect.serializers import JSONSerializer, PickleSerializer
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from tasks.serve.step import Serving
from tasks.stored_results import only_own_results
from weighbridge.errors import ResultRefused

only_own_results()


class Evil:
    """Its pickle writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    (tmp_path / "results").mkdir()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield tmp_path / "results"


def completed(**metadata: Any) -> State[Any]:
    """A state as it arrives from the API."""
    return State(type=StateType.COMPLETED, data=ResultRecordMetadata.model_validate(metadata))


def record(result: str, **serializer: Any) -> str:
    return json.dumps({"metadata": {"serializer": serializer}, "result": result})


def stored(folder: Path, value: Any) -> State[Any]:
    store = ResultStore(result_storage=LocalFileSystem(basepath=str(folder)), serializer=JSONSerializer())
    store.write(value, key="kept")
    return completed(storage_key=str(folder / "kept"), serializer={"type": "json"})


def test_a_stored_result_is_read_back_as_what_it_was(folder: Path) -> None:
    serving = Serving(line="toy", version=3, digest="0" * 64)
    assert stored(folder, serving).result(raise_on_failure=False) == serving
    assert stored(folder, {"a": [1, Path("/b")]}).result(raise_on_failure=False) == {"a": [1, Path("/b")]}


def test_a_result_in_another_storage_is_refused(folder: Path) -> None:
    with pytest.raises(ResultRefused, match="another storage"):
        completed(storage_key="kept", storage_block_id=str(uuid4()), serializer={"type": "json"}).result()


@pytest.mark.parametrize("key", ["/etc/hostname", "../evil", "a/../../evil", ""])
def test_a_result_outside_of_the_folder_is_refused(folder: Path, key: str) -> None:
    (folder.parent / "evil").write_text(record('"read"', type="json"))
    with pytest.raises(ResultRefused, match="outside of the folder"):
        completed(storage_key=key, serializer={"type": "json"}).result()


@pytest.mark.parametrize("kind", ["pickle", "compressed/pickle"])
def test_a_pickled_result_is_never_loaded(folder: Path, kind: str, tmp_path: Path) -> None:
    import lzma

    blob = base64.encodebytes(pickle.dumps(Evil(tmp_path / "pwned")))
    if kind != "pickle":
        blob = base64.encodebytes(lzma.compress(blob))
    (folder / "evil").write_text(record(blob.decode(), type=kind))
    with pytest.raises(ResultRefused, match="pickled"):
        completed(storage_key=str(folder / "evil"), serializer={"type": kind}).result()
    with pytest.raises(ResultRefused):
        ResultStore(result_storage=LocalFileSystem(basepath=str(folder))).read("evil")
    with pytest.raises(ResultRefused):
        PickleSerializer().loads(base64.encodebytes(pickle.dumps(Evil(tmp_path / "pwned"))))
    assert not (tmp_path / "pwned").exists()


def test_the_decoder_and_the_library_that_a_record_names_are_not_followed(folder: Path, tmp_path: Path) -> None:
    command = json.dumps({"touch": 1, str(tmp_path / "pwned"): 2})
    evil = record(command, type="json", object_decoder="subprocess.call", jsonlib="yaml")
    (folder / "evil").write_text(evil)
    state = completed(storage_key=str(folder / "evil"), serializer={"type": "json"})
    assert state.result() == json.loads(command)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "name",
    ["subprocess.Popen", "os.system", "antigravity.Any", "tasks.stored_results.only_own_results", "tasks.x.Y", ""],
)
def test_a_class_that_is_no_data_of_ours_stays_plain(name: str) -> None:
    found = {"__class__": name, "data": {"args": "id"}}
    assert JSONSerializer().loads(json.dumps(found).encode()) == found


def test_an_exception_becomes_one_of_ours_or_a_plain_one() -> None:
    loads = JSONSerializer().loads
    assert isinstance(loads(b'{"__exc_type__": "weighbridge.errors.StackDown", "message": "m"}'), Exception)
    assert isinstance(loads(b'{"__exc_type__": "builtins.ValueError", "message": "m"}'), ValueError)
    assert type(loads(b'{"__exc_type__": "evil.Exit", "message": "m"}')) is RuntimeError
    assert type(loads(b'{"__exc_type__": "builtins.SystemExit", "message": "m"}')) is RuntimeError


def test_the_server_names_no_storage_for_results() -> None:
    assert prefect.results._read_server_default_result_storage_block_id() is None
