"""A Hub, or whoever answers in its name, that lies, drips, redirects and compresses: one named error, soon."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from examples import tiny
from registry.store import Store
from tasks.source import answers, client
from tasks.source.client import Hub
from tasks.source.download import download
from tasks.source.hub import pin_repository
from tasks.source.providers.hf import Provider
from tasks.source.small_files import git_oid
from weighbridge.errors import SourceDamaged, SourceUnknown, SourceUnreachable, WeighbridgeError
from weighbridge.settings import Settings

REPO = "acme/tiny"
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Serves one release, and misbehaves on paths that a test names."""

    protocol_version = "HTTP/1.1"
    files: ClassVar[dict[str, bytes]] = {}
    odd: ClassVar[dict[str, Answer]] = {}
    asked: ClassVar[list[tuple[int, str, str | None]]] = []

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.split("?")[0]
        port = self.connection.getsockname()[1]
        self.asked.append((port, path, self.headers.get("Authorization")))
        name = path.rsplit("/", 1)[1]
        odd = self.odd.get("api" if path.startswith("/api") else name)
        if odd and port == PORTS[0]:
            odd(self)
        elif path.startswith("/api"):
            self.send(json.dumps(described()).encode())
        else:
            self.send(self.files[name])

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for title, value in headers.items():
            self.send_header(title.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


PORTS: list[int] = []


def described(**changes: Any) -> dict[str, Any]:
    siblings = [
        {"rfilename": name, "size": len(content), "blobId": git_oid(content)} for name, content in Handler.files.items()
    ]
    card = {"license": "apache-2.0"}
    return {"id": REPO, "sha": "a" * 40, "tags": [], "cardData": card, "siblings": siblings, **changes}


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tiny.build(tmp_path / "release")
    Handler.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    Handler.odd, Handler.asked = {}, []
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    PORTS[:] = [int(server.server_address[1]) for server in servers]
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(client, "TIMEOUT_SECONDS", 2.0)
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 2.0)
    yield Hub(f"http://127.0.0.1:{PORTS[0]}")
    for server in servers:
        server.shutdown()


def drip(handler: Handler) -> None:
    """Send a byte of the body now and then."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    _slowly(handler, b" ")


def drip_headers(handler: Handler) -> None:
    """Send a byte of a header now and then."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    _slowly(handler, b"x")


def _slowly(handler: Handler, byte: bytes) -> None:
    try:
        for _ in range(60):
            handler.wfile.write(byte)
            handler.wfile.flush()
            time.sleep(0.2)
    except OSError:
        pass
    handler.close_connection = True


def send_without_end(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"%x\r\n" % 2**20 + b" " * 2**20 + b"\r\n")
    except OSError:
        handler.close_connection = True


def json_answer(**changes: Any) -> Answer:
    return lambda handler: handler.send(json.dumps(described(**changes)).encode())


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (drip, "not complete after 2 s"),
        (drip_headers, "not begun after 2 s"),
        (send_without_end, "larger than 32 MiB"),
        (lambda handler: handler.send(gzip.compress(b"{}"), Content_Encoding="gzip"), "compressed"),
        (lambda handler: handler.send(b"", 307, Location=f"http://127.0.0.1:{PORTS[1]}{handler.path}"), "redirects"),
        (lambda handler: handler.send(b"", 307, Location=handler.path), "redirects more than"),
        (lambda handler: handler.send(b"", 302, Location="file:///etc/passwd"), "redirects the question to file"),
        (lambda handler: handler.send(b"{}", 429, Retry_After="9" * 400), "answered 429"),
        (lambda handler: handler.send(b"{}", 429, Retry_After="-5"), "answered 429"),
        (lambda handler: handler.send(b"[" * 300_000), "not a Hub's"),
        (lambda handler: handler.send(b'{"id": "acme/tiny", "id": "acme/other"}'), "occurs twice"),
        (json_answer(siblings=None), "siblings"),
        (json_answer(siblings=[{"rfilename": 5}]), "siblings.0.rfilename"),
        (json_answer(siblings=[{"rfilename": "a", "size": -5}]), "siblings.0.size"),
        (json_answer(siblings=[{"rfilename": "config.json"}]), "no size"),
        (json_answer(sha="A" * 40), "sha"),
        (json_answer(cardData="x"), "cardData"),
    ],
)
def test_an_answer_that_is_no_hubs_is_a_named_error_in_time(evil: Hub, odd: Answer, says: str) -> None:
    Handler.odd["api"] = odd
    began = time.monotonic()
    with pytest.raises(SourceUnreachable, match=says):
        pin_repository(evil, REPO, "main")
    assert time.monotonic() - began < 15


def test_a_repository_that_was_renamed_is_not_followed_silently(evil: Hub) -> None:
    Handler.odd["api"] = json_answer(id="newowner/tiny")
    with pytest.raises(SourceUnknown, match="now called newowner/tiny"):
        pin_repository(evil, REPO, "main")


def test_files_from_another_host_are_taken_by_their_hash_and_without_the_token(evil: Hub, tmp_path: Path) -> None:
    def redirect(handler: Handler) -> None:
        handler.send(b"", 302, Location=f"http://127.0.0.1:{PORTS[1]}{handler.path}")

    Handler.odd = dict.fromkeys(Handler.files, redirect)
    source = pin_repository(evil, REPO, "main")
    assert (
        download(Provider(Settings(hf_endpoint=evil.endpoint), REPO), source, "tiny", Store(tmp_path / "store")).repo
        == REPO
    )
    assert {token for port, _, token in Handler.asked if port == PORTS[1]} == {None}
    assert any(token for port, _, token in Handler.asked if port == PORTS[0])


def test_a_compressed_file_is_not_unpacked(evil: Hub, tmp_path: Path) -> None:
    source = pin_repository(evil, REPO, "main")
    bomb = gzip.compress(bytes(50_000_000))
    Handler.odd["model.safetensors"] = lambda handler: handler.send(bomb, Content_Encoding="gzip")
    with pytest.raises(SourceDamaged, match="compressed"):
        download(Provider(Settings(hf_endpoint=evil.endpoint), REPO), source, "tiny", Store(tmp_path / "store"))


@pytest.mark.parametrize(
    "licence", [{"a": 1}, 5, ["mit", "apache-2.0"], "apache-2.0\nX: y", "\u0430pache-2.0", "other"]
)
def test_a_licence_that_the_hub_lists_otherwise_is_a_flaw(evil: Hub, licence: Any) -> None:
    Handler.odd["api"] = json_answer(cardData={"license": licence})
    try:
        assert any("the Hub lists" in flaw for flaw in pin_repository(evil, REPO, "main").flaws)
    except WeighbridgeError as error:
        pytest.fail(str(error))
