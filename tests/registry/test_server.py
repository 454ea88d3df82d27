"""The registry with a real `mlflow server`, and without one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from registry.models.records import ReleaseRecord
from registry.models.registry import Registry
from tests.support.mlflow_server import MlflowServer
from tests.support.ports import free_port
from weighbridge.errors import RegistryFailed, StackDown
from weighbridge.line import Approval

Make = Callable[..., ReleaseRecord]
# The server takes 17 s to start on an idle machine, and more than a minute on a busy one.
pytestmark = [pytest.mark.server, pytest.mark.timeout(400)]


@pytest.fixture
def server(mlflow_server: MlflowServer) -> str:
    """Address of a real MLflow server."""
    return mlflow_server.url


def test_a_release_is_recorded_once_and_its_report_can_be_opened(server: str, release: Make) -> None:
    registry = Registry(server)
    first = registry.record_release(release())
    assert registry.record_release(release()) == first

    versions = registry.candidates("toy")
    assert [(version.version, version.source_uri) for version in versions] == [
        (number, f"store://toy/{candidate.artifact.digest}")
        for number, candidate in enumerate(release().candidates, start=1)
    ]
    assert versions[0].url == f"{server}/#/models/toy-candidates/versions/1"
    model = registry.client.get_logged_model(first.candidates[0].model_id)
    assert "toy-candidates" in model.tags["mlflow.modelVersions"], "the logged model knows its version"
    run_id = first.candidates[0].run_id
    assert first.candidates[0].report_url.endswith(f"/get-artifact?path=report.html&run_uuid={run_id}")
    report = httpx.get(f"{server}/get-artifact", params={"path": "report.html", "run_uuid": run_id})
    assert report.text == "<p>report</p>"


def test_the_request_of_the_promote_button_is_an_approval(server: str, release: Make) -> None:
    registry = Registry(server)
    registry.record_release(release(line="clicked"))
    candidate = registry.candidate("clicked", 2)
    run_id = registry.client.get_model_version("clicked-candidates", "2").run_id
    # What MLflow 3.17.2's page sends: name, source, run_id and tags; no description, no model_id.
    body = {
        "name": "clicked",
        "source": "models:/clicked-candidates/2",
        "run_id": run_id,
        "tags": [{"key": key, "value": value} for key, value in candidate.tags.items()],
    }
    answer = httpx.post(f"{server}/ajax-api/2.0/mlflow/model-versions/create", json=body)
    assert answer.is_success, answer.text

    (approved,) = registry.waiting("clicked")
    assert (approved.version, approved.digest, approved.approved_by) == (1, candidate.digest, "")
    assert approved.source_uri == "models:/clicked-candidates/2"
    registry.check_approval(approved, Approval())
    assert registry.approve("clicked", 2, "", "ada").version == 1, "the click created the version already"

    registry.set_production("clicked", 1)
    registry.set_state("clicked", 1, "serving")
    production = registry.production("clicked")
    assert production is not None and (production.version, production.aliases) == (1, ("production",))
    assert registry.approve("clicked", 1, "smaller is not better", "ada").model == "clicked"


def test_a_server_that_is_down_is_reported_within_seconds() -> None:
    address, started = f"http://127.0.0.1:{free_port()}", time.monotonic()
    with pytest.raises(StackDown, match=rf"does not answer\. \[{address}\] Next: .*weighbridge up"):
        Registry(address).candidates("toy")
    assert time.monotonic() - started < 20, "most of it is the import of MLflow"


def test_a_server_that_hangs_is_reported_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(StackDown, match="did not answer within 1 s"),
    ):
        Registry(f"http://127.0.0.1:{silent.getsockname()[1]}").waiting("toy")


def test_another_service_on_the_port_is_rejected() -> None:
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{stranger.server_port}"
        with pytest.raises(RegistryFailed, match="403") as raised:
            Registry(address).candidates("toy")
        assert raised.value.where == address
        stranger.shutdown()
