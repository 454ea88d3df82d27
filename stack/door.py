"""The door of a local web service: who may knock, before the service itself sees a request.

A page of another site in a browser on this machine reaches loopback too. It names itself in `Origin`, and after DNS
rebinding names its own site in `Host`; both are refused here, for HTTP and for WebSockets.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
"""An ASGI application."""

FIRST_MESSAGE_SECONDS = 10.0
"""A WebSocket that has not said who it is by then is closed; it would take the place of somebody who has."""


class Door:
    """Let requests through that come from here, and that show a secret where one is asked for.

    Args:
        app: The service behind the door.
        page_url: Another address under which browsers reach the service, such as a proxy's; empty: none.
        secret: What HTTP Basic authentication must show, as `user:password`; empty: nothing is asked for.
        open_to_all: Whether a method and path are served without the secret.
    """

    def __init__(
        self, app: App, *, page_url: str = "", secret: str = "", open_to_all: Callable[[str, str], bool] | None = None
    ) -> None:
        self._app = app
        page = urlsplit(page_url)
        self._names = {"localhost", socket.gethostname().lower(), (page.hostname or "localhost")}
        self._pages = {f"{page.scheme}://{page.netloc}"} if page.netloc else set()
        self._expected = f"Basic {base64.b64encode(secret.encode()).decode()}".encode() if secret else b""
        self._open_to_all = open_to_all or (lambda method, path: False)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        status, why = self.verdict(scope)
        if status:
            await _refuse(scope, receive, send, status, why)
        elif scope["type"] == "websocket":
            await self._app(scope, _in_time(receive), send)
        else:
            await self._app(scope, receive, send)

    def verdict(self, scope: Message) -> tuple[int, str]:
        """Return the status and the reason with which a request is refused; (0, "") where it is let through."""
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return 421, "This service does not go by that name."
        for origin in origins:
            if urlsplit(origin).netloc != hosts[0] and origin not in self._pages:
                return 403, "Pages of other sites are not served."
        if scope["type"] == "websocket" or not self._expected or self._open_to_all(scope["method"], scope["path"]):
            # A browser cannot send headers with a WebSocket: its first message carries the secret.
            return 0, ""
        shown = [value for name, value in headers if name == b"authorization"]
        if len(shown) == 1 and hmac.compare_digest(shown[0], self._expected):
            return 0, ""
        return 401, "Unauthorized"

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            # Rebinding needs a name.
            ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return True


def _in_time(receive: Receive) -> Receive:
    heard = False

    async def receive_in_time() -> Message:
        nonlocal heard
        if heard:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), FIRST_MESSAGE_SECONDS)
        except TimeoutError:
            return {"type": "websocket.disconnect", "code": 1008}
        heard = message["type"] != "websocket.connect"
        return message

    return receive_in_time


async def _refuse(scope: Message, receive: Receive, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        # Before it is accepted, this answers 403.
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    body = f'{{"exception_message": "{why}"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
