"""Runs that are under way: those of one line are named and cancelled, and one that does not end is said."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stack import stopping
from weighbridge.errors import LineUnknown
from weighbridge.retired import Retirement, refuse_retired, write_retirement
from weighbridge.settings import Settings


class Runs:
    """Flow runs as Prefect's API shows them: the worker ends a cancelled one, a terminal does not."""

    def __init__(self) -> None:
        self.under_way: dict[str, dict[str, Any]] = {}
        self.asked: dict[str, dict[str, Any]] = {}

    def add(self, name: str, line: str) -> None:
        self.under_way[name] = {"id": name, "name": name, "parameters": {"line": line}}

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/set_state"):
            name = path.split("/")[-2]
            self.asked[name] = body["state"]
            if "terminal" not in name:
                del self.under_way[name]
            return {"status": "ACCEPT"}
        assert path == "/api/flow_runs/filter"
        return list(self.under_way.values())


@pytest.fixture
def runs() -> Iterator[tuple[Runs, Settings]]:
    kept = Runs()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(kept.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield kept, Settings(prefect_port=server.server_port)
    server.shutdown()
    server.server_close()


def test_a_retirement_cancels_the_runs_of_its_line_and_names_those_that_do_not_end(
    runs: tuple[Runs, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, settings = runs
    for name, line in (("release-toy", "toy"), ("terminal-toy", "toy"), ("release-other", "other")):
        kept.add(name, line)
    assert stopping.runs_under_way(settings, "toy") == ["release-toy", "terminal-toy"]
    monkeypatch.setattr(stopping, "CANCELLED_WITHIN_SECONDS", 0.1)
    assert stopping.cancel_runs(settings, "toy") == ["terminal-toy"]
    assert {name: state["type"] for name, state in kept.asked.items()} == {
        "release-toy": "CANCELLING",
        "terminal-toy": "CANCELLING",
    }
    assert stopping.runs_under_way(settings) == ["terminal-toy", "release-other"], "other lines go on"


def test_what_is_left_of_a_release_of_a_retired_line_proposes_nothing(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path, home=tmp_path / "home")
    (tmp_path / "lines").mkdir()
    refuse_retired(settings, "toy")
    write_retirement(settings, Retirement(line="toy", at="2026-12-01T06:00:00+00:00", who="ann"))
    with pytest.raises(LineUnknown, match="toy was retired by ann"):
        refuse_retired(settings, "toy")
    (tmp_path / "lines" / "toy.yaml").write_text("made again")
    refuse_retired(settings, "toy")
