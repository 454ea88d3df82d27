"""State files of an older version are read: a running stack loses no engine by an upgrade.

The files in `recorded/` were written by the version in which an engine was one port on 127.0.0.1.
"""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
from pathlib import Path

import pytest

from tasks.serve.endpoint import Endpoint
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.gateway.clusters import clusters_document
from tasks.serve.gateway.routes import RoutesFile
from tasks.serve.parity.measure import Measured
from weighbridge.settings import Settings

RECORDED = Path(__file__).parent / "recorded"
ENGINE = "engine-toy-aaaaaaaaaaaa-950377"
CLUSTERS_BEFORE = "c405e49267fc5bdc1d503e81516dd87883bc9b47af0693109de2274eb6654821"
"""Version of the clusters that Envoy runs for these routes, since their connections have TCP keepalive. A change cuts
requests in a gateway that runs on: think of the upgrade before you write another."""


def test_engines_recorded_with_one_port_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "engines" / ENGINE
    folder.mkdir(parents=True)
    shutil.copy(RECORDED / "engine-with-port.json", folder / "engine.json")
    (engine,) = LocalFleet(Settings(home=tmp_path)).engines("toy")
    assert engine.name == ENGINE
    assert engine.endpoints == (Endpoint(host="127.0.0.1", port=8200),)
    assert type(engine).model_validate_json(engine.model_dump_json()) == engine


def test_routes_recorded_with_ports_lead_to_the_same_engines(tmp_path: Path) -> None:
    shutil.copy(RECORDED / "routes-with-ports.json", tmp_path / "routes.json")
    file = RoutesFile(tmp_path)
    routes = file.load()
    first, second = routes.line("toy").backends
    assert first.endpoints == (Endpoint(host="127.0.0.1", port=8200),)
    assert first.runs_on(ENGINE, [Endpoint(host="127.0.0.1", port=8200)])
    assert not second.runs_on(ENGINE, [Endpoint(host="127.0.0.1", port=8200)])
    # Envoy would close connections for a cluster that changed.
    assert clusters_document(routes)["version_info"] == CLUSTERS_BEFORE
    file.save(routes)
    assert file.load() == routes
    assert "port" not in json.loads(file.path.read_text())["lines"][0]["backends"][0]


def test_a_named_backend_is_found_by_its_name_only(tmp_path: Path) -> None:
    shutil.copy(RECORDED / "routes-with-ports.json", tmp_path / "routes.json")
    old, _ = RoutesFile(tmp_path).load().line("toy").backends
    backend = old.model_copy(update={"engine": ENGINE})
    assert backend.runs_on(ENGINE, [Endpoint(host="10.0.0.7", port=8000)])
    assert not backend.runs_on("engine-other", backend.endpoints)


def test_distances_of_an_older_record_are_read() -> None:
    old = {"kind": "short", "gauge": "choice", "name": "sea", "nats": 0.01, "told": "said 'a', likeliest is 'the'"}
    assert Measured.model_validate(old).detail == "said 'a', likeliest is 'the'"


@pytest.mark.parametrize("module", ["llama_cpp", "ollama"])
def test_the_command_of_an_older_engine_starts_the_present_one(module: str) -> None:
    """supervisord restarts an engine by the command that it was started with."""
    older, present = (importlib.import_module(f"tasks.{room}.{module}") for room in ("serve.engines", "engines"))
    assert older.main is present.main
    assert '__name__ == "__main__"' in inspect.getsource(older)
