"""The door of a local web service, without the service."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from stack.door import Door, Message

OURS = "http://127.0.0.1:4200"


async def _app(scope: Message, receive: Any, send: Any) -> None:
    raise AssertionError("a request that should have been refused came through")


def verdict(door: Door, *headers: tuple[str, str], method: str = "GET", path: str = "/api", kind: str = "http") -> int:
    given = [(name.encode(), value.encode()) for name, value in headers]
    return door.verdict({"type": kind, "method": method, "path": path, "headers": given})[0]


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost", "LOCALHOST:4200", "[::1]:4200", "192.0.2.7:4200"])
def test_addresses_of_this_machine_are_let_through(host: str) -> None:
    assert verdict(Door(_app), ("Host", host)) == 0


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil.example", "[", "a:b:c"],
)
def test_any_other_name_may_have_been_rebound_and_is_refused(host: str) -> None:
    assert verdict(Door(_app), ("Host", host)) == 421


def test_a_request_without_a_name_or_with_two_is_refused() -> None:
    assert verdict(Door(_app)) == 421
    assert verdict(Door(_app), ("Host", "localhost"), ("host", "evil.example")) == 421


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:8080", "http://localhost:4200", ""]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_page_of_another_site_is_refused(origin: str, kind: str) -> None:
    assert verdict(Door(_app), ("Host", "127.0.0.1:4200"), ("Origin", origin), kind=kind) == 403
    assert verdict(Door(_app), ("Host", "127.0.0.1:4200"), ("Origin", OURS), kind=kind) == 0


def test_a_proxy_s_address_is_let_through_where_it_is_set() -> None:
    proxied = Door(_app, page_url="https://prefect.example.com")
    assert verdict(proxied, ("Host", "prefect.example.com"), ("Origin", "https://prefect.example.com")) == 0
    assert verdict(proxied, ("Host", "127.0.0.1:4200"), ("Origin", "https://prefect.example.com")) == 0
    assert verdict(proxied, ("Host", "127.0.0.1:4200"), ("Origin", "https://evil.example")) == 403
    assert verdict(Door(_app), ("Host", "prefect.example.com")) == 421


def test_the_secret_is_asked_for_wherever_it_is_not_waived() -> None:
    door = Door(_app, secret="us:secret", open_to_all=lambda method, path: (method, path) == ("GET", "/health"))
    host = ("Host", "localhost")
    shown = ("Authorization", f"Basic {base64.b64encode(b'us:secret').decode()}")
    assert verdict(door, host, path="/health") == 0
    assert verdict(door, host, path="/health", method="POST") == 401
    assert verdict(door, host, path="/api") == 401
    assert verdict(door, host, ("Authorization", "Basic !"), path="/api") == 401
    assert verdict(door, host, shown, shown, path="/api") == 401
    assert verdict(door, host, shown, path="/api") == 0


def test_a_websocket_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.door.FIRST_MESSAGE_SECONDS", 0.05)
    heard: list[str] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"]])

    async def receive() -> Message:
        if heard or asked:
            await asyncio.sleep(60)
        asked.append(True)
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    asked: list[bool] = []
    scope: Message = {"type": "websocket", "path": "/out", "headers": [(b"host", b"localhost")]}
    asyncio.run(Door(app)(scope, receive, send))
    assert heard == ["websocket.connect", "websocket.disconnect"]
