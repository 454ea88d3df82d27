"""The door before MLflow: an ASGI application that passes on only the requests that `routes.py` names.

It stands before Flask's routes and FastAPI's alike. A request has to name this server as its host, may come from no
other page, and has to have one meaning (`message.py`). All others get 403 and an entry in the audit log, WebSockets
included.
"""

from __future__ import annotations

import base64
import hmac
import json
import shutil
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.server.contents import check_contents
from registry.server.graphql import check_graphql
from registry.server.message import (
    LARGEST_BODY_BYTES,
    Refused,
    check_fields,
    check_path,
    read_json,
    read_query,
    write_json,
)
from registry.server.refusals import Refusals
from registry.server.refused import is_asked_by_the_page, reason_of
from registry.server.report_page import as_page
from registry.server.routes import Route, find

ONCE = ("host", "origin", "content-type", "content-length", "transfer-encoding", "authorization", "sec-fetch-site")
"""Headers that may occur once, because readers differ in which of two they take."""
NEVER = ("content-encoding", "x-http-method-override", "x-http-method", "x-method-override", "x-mlflow-workspace")
"""Headers that would give a request a second meaning."""
LARGE_BYTES = 65_536
"""A larger body is read in a thread, so that others need not wait."""

LARGEST_FILE_BYTES = 100 * 2**20
"""Largest file, unless the settings name another size. MLflow keeps it in memory, also before it asks who sends it."""
KEPT_FREE_BYTES = 2**30
"""What no client's file may take of the disk."""
BY_PERMISSIONS = "MLflow's permissions do not allow it to this account"

Verify = Callable[[str, str], bool]
"""Check a name and a password."""


class Guard:
    """Refuses what is not on the list.

    Args:
        app: MLflow's application.
        hosts: Values of the header `Host` that name this server.
        refusals: Where refused requests are written.
        verify: Checks an account's password, for the audit log; None without accounts.
        own_key: Without accounts, the password of requests that only the installation's own programs may send.
        files: Folder on the disk that MLflow's files fill; None if they lie elsewhere.
        largest_file: Largest file that is taken, in bytes.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: frozenset[str],
        refusals: Refusals,
        verify: Verify | None,
        own_key: str = "",
        files: Path | None = None,
        largest_file: int = LARGEST_FILE_BYTES,
    ) -> None:
        self.app, self._hosts, self._refusals, self._verify, self._own_key = app, hosts, refusals, verify, own_key
        self._files, self._largest_file = files, largest_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            if scope["type"] != "http":
                raise Refused("MLflow has no WebSockets here")
            route = self._admit(scope, headers)
            if route.body == "file":
                body = await _read(receive, self._largest_file)
                self._require_room(len(body))
                scope, receive = _with_body(scope, receive, body)
            elif route.body != "none":
                body = await _read(receive, LARGEST_BODY_BYTES)
                prepare = partial(_as_understood, route, body, headers.get("content-type", ""))
                passed = await anyio.to_thread.run_sync(prepare) if len(body) > LARGE_BYTES else prepare()
                scope, receive = _with_body(scope, receive, passed, b"application/json")
        except Refused as refused:
            await self._refuse(scope, headers, str(refused), send)
            return
        await self.app(scope, receive, as_page(scope, self._noting(route, scope, headers, send)))

    def _admit(self, scope: Scope, headers: Headers) -> Route:
        method, path = scope["method"], scope["path"]
        _check_headers(headers)
        if headers.get("host", "").lower() not in self._hosts:
            raise Refused("its Host is not this server (WEIGHBRIDGE_MLFLOW_HOSTS names further ones)")
        check_path(path, scope.get("raw_path") or path.encode())
        route = find(method, path)
        if route is None:
            raise Refused(reason_of(path))
        _check_page(headers, navigates=method == "GET" and not path.startswith(("/api/", "/ajax-api/")))
        if route.body != "none" and scope.get("query_string"):
            raise Refused("it has a query beside its body")
        if route.body == "none":
            check_contents(path, read_query(scope.get("query_string", b""), route.repeated))
        if route.body == "none" and (headers.get("content-length", "0") != "0" or "transfer-encoding" in headers):
            raise Refused("it has a body beside its query")
        if route.access == "admin" and self._own_key and not self._is_own(headers):
            raise Refused("MLflow has no accounts here, so only Weighbridge's own programs may ask for it")
        return route

    def _is_own(self, headers: Headers) -> bool:
        return hmac.compare_digest(_account(headers)[1].encode(), self._own_key.encode())

    def _require_room(self, size: int) -> None:
        """Refuse a file that would fill the disk, on which databases and the audit log lie too."""
        if self._files is not None and shutil.disk_usage(self._files).free - size < KEPT_FREE_BYTES:
            raise Refused(f"its file would leave less than {KEPT_FREE_BYTES} bytes of the disk free")

    def _noting(self, route: Route, scope: Scope, headers: Headers, send: Send) -> Send:
        """Return a `send` that notes a change, or a question of admins, which MLflow's permissions refuse."""
        if not route.changes and route.access != "admin":
            return send

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.FORBIDDEN:
                # MLflow answers 401 to whoever is not signed in.
                await self._note(scope, headers, BY_PERMISSIONS, account=_account(headers)[0])
            await send(message)

        return send_and_note

    async def _note(self, scope: Scope, headers: Headers, reason: str, account: str = "") -> None:
        address = (scope.get("client") or ("",))[0]
        request = f"{scope.get('method', 'WEBSOCKET')} {scope['path']}"
        write = partial(self._refusals.write, request, reason, address, partial(self._who, headers), account)
        await anyio.to_thread.run_sync(write)

    async def _refuse(self, scope: Scope, headers: Headers, reason: str, send: Send) -> None:
        if not is_asked_by_the_page(scope.get("method", ""), scope["path"]):
            await self._note(scope, headers, reason)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "Weighbridge refuses this request."})
            return
        body = refusal(reason)
        answer: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            # A body that was not read must not become the next request.
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 403, "headers": answer})
        await send({"type": "http.response.body", "body": body})

    def _who(self, headers: Headers) -> str:
        name, password = _account(headers)
        return name if name and self._verify is not None and self._verify(name, password) else ""


def refusal(reason: str) -> bytes:
    """Return the body of a refusal, in the form of MLflow's errors."""
    message = f"Weighbridge refuses this request: {reason}."
    return json.dumps({"error_code": "PERMISSION_DENIED", "message": message}).encode()


def _check_headers(headers: Headers) -> None:
    names = headers.keys()
    if any("_" in name for name in names):
        # WSGI makes one name of `a-b` and `a_b`.
        raise Refused("it has a header with an underscore")
    if any(names.count(name) > 1 for name in ONCE):
        raise Refused("it has a header twice")
    if "content-length" in names and "transfer-encoding" in names:
        raise Refused("it says in two ways how long it is")
    if found := [name for name in NEVER if name in names]:
        raise Refused(f"it has the header {found[0]}, which would give it a second meaning")


def _check_page(headers: Headers, navigates: bool) -> None:
    """Refuse what another page sends. A link to MLflow's page, or to a file, may be anywhere."""
    origin = headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != headers["host"].lower():
        raise Refused("another page sent it")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not (
        navigates and headers.get("sec-fetch-mode") == "navigate"
    ):
        raise Refused("another page sent it")


def _account(headers: Headers) -> tuple[str, str]:
    """Return name and password as sent, not verified."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return name, password


async def _read(receive: Receive, largest: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("it ended before its body was whole")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > largest:
            raise Refused(f"its body has more than {largest} bytes")
        more = message.get("more_body", False)
    return b"".join(parts)


def _as_understood(route: Route, body: bytes, media_type: str) -> bytes:
    content = read_json(body, media_type)
    if route.body == "graphql":
        check_graphql(content)
    else:
        check_fields(content)
        check_contents(route.path, content)
    return write_json(content)


def _with_body(scope: Scope, receive: Receive, body: bytes, media_type: bytes = b"") -> tuple[Scope, Receive]:
    """Return a request with this body, which is sent whole, and maybe of another media type."""
    described = {b"content-length": str(len(body)).encode(), **({b"content-type": media_type} if media_type else {})}
    replaced = {*described, b"transfer-encoding"}
    kept = [(name, value) for name, value in scope["headers"] if name.lower() not in replaced]
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    changed: dict[str, Any] = {**scope, "headers": [*kept, *described.items()]}
    return changed, replay
