"""Hold Prefect to results that this installation has stored: nothing from the API decides what is read, or runs.

The state of a run names the place and the serializer of its result, and both come from Prefect's API. Stock Prefect
follows them to any file or storage and unpickles what is there. So whoever has Prefect's secret could run code in every
flow and command that reads a result. Here a result is JSON below the installation's own folder of results, and becomes
an object only of a class of this project, or of a few of the standard library.
"""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any, NoReturn

import prefect.results
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultRecord, ResultRecordMetadata, ResultStore
from prefect.serializers import JSONSerializer, PickleSerializer, prefect_json_object_decoder
from prefect.settings import get_current_settings
from prefect.utilities.importtools import from_qualified_name
from pydantic import BaseModel

import weighbridge.errors
from weighbridge.errors import ResultRefused, WeighbridgeError

PACKAGES = frozenset({"cli", "examples", "flows", "registry", "stack", "tasks", "weighbridge"})
STANDARD = frozenset({"pathlib.PosixPath", "pathlib.Path", "datetime.datetime", "datetime.date", "uuid.UUID"})
_NEXT = "Run the step again; if a run's state was changed by hand in Prefect, find out by whom."


def only_own_results() -> None:
    """Apply the rule to this process; harmless to repeat.

    It replaces functions of Prefect's own, because no setting of its reaches them. tests/flows/test_stored_results.py
    fails if an upgrade moves one.
    """
    prefect.results._read_server_default_result_storage_block_id = lambda: None
    prefect.results._aread_server_default_result_storage_block_id = _no_storage
    ResultStore._from_metadata = classmethod(_read_own)  # type: ignore[assignment, method-assign]
    PickleSerializer.loads = _refuse_pickle  # type: ignore[assignment, method-assign]
    JSONSerializer.loads = _load_json  # type: ignore[assignment, method-assign]


def result_folder() -> Path:
    """The folder of results."""
    return Path(get_current_settings().results.local_storage_path).resolve()


async def _no_storage() -> None:
    """No storage that the server names."""


async def _read_own(_: type[ResultStore], metadata: ResultRecordMetadata) -> ResultRecord[Any]:
    if metadata.storage_block_id is not None:
        raise ResultRefused("The run's result is said to be in another storage.", _NEXT, where="Prefect")
    folder, key = result_folder(), metadata.storage_key or ""
    path = (folder / key).resolve()
    if folder not in path.parents:
        raise ResultRefused("The run's result is said to be outside of the folder of results.", _NEXT, where=str(path))
    store = ResultStore(result_storage=LocalFileSystem(basepath=str(folder)), serializer=JSONSerializer())
    return await store.aread(str(path))


def _refuse_pickle(_: PickleSerializer[Any], __: bytes) -> NoReturn:
    raise ResultRefused("A stored result is pickled, and reading it could run anything.", _NEXT, where="Prefect")


def _load_json(_: JSONSerializer[Any], blob: bytes) -> Any:
    # The record names a library and a decoder too. They are not followed.
    return json.loads(blob, object_hook=_decode)


def _decode(found: dict[str, Any]) -> Any:
    if isinstance(kind := found.get("__exc_type__"), str):
        return _exception(kind, str(found.get("message", "")))
    if not isinstance(name := found.get("__class__"), str):
        return found
    if name not in STANDARD and name.partition(".")[0] not in PACKAGES:
        return found
    return prefect_json_object_decoder({"__class__": name, "data": found.get("data")}) if _is_data(name) else found


def _is_data(name: str) -> bool:
    """Whether a name is a class that only holds data."""
    if name in STANDARD:
        return True
    try:
        found = from_qualified_name(name)
    except (ImportError, AttributeError, ValueError):
        return False
    return isinstance(found, type) and (issubclass(found, BaseModel) or hasattr(found, "__dataclass_fields__"))


def _exception(kind: str, message: str) -> Exception:
    name = kind.rpartition(".")[2]
    named = getattr(weighbridge.errors, name, None)
    if isinstance(named, type) and issubclass(named, WeighbridgeError):
        return named(message, "See the flow run in Prefect.")
    plain = getattr(builtins, name, None)
    if isinstance(plain, type) and issubclass(plain, Exception):
        return plain(message)
    return RuntimeError(f"{kind}: {message}")
