"""An ASGI middleware that lets only requests with the engine's key pass; vLLM and `transformers serve` run behind it.

An engine's port is open to every user of the machine, and to pages of any site in their browsers. Past the gateway
nobody is asked for a client's key, and nothing is limited or logged.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

KEY_VARIABLE = "WEIGHBRIDGE_ENGINE_KEY"
"""Variable with the key; without it the engine is open, as one of an older Weighbridge is."""
OPEN_PATHS = frozenset({"/health", "/metrics"})
"""Paths that may be read without a key: they tell whether the engine lives, and how much it does."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY = b'{"error":{"message":"Ask the gateway, not the engine.","type":"invalid_request_error","code":"engine_key"}}'


class RequireKey:
    """Answers 401 to every request without the key.

    Args:
        app: the engine.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        key = os.environ.get(KEY_VARIABLE, "")
        self._expected = _digest(b"Bearer " + key.encode()) if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if self._expected is None or scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": BODY})

    def _may_pass(self, scope: Scope) -> bool:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] in OPEN_PATHS:
            return True
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(_digest(given[0]), self._expected or b"")


def _digest(value: bytes) -> bytes:
    """Digests of one length, so that the comparison's time tells nothing."""
    return hashlib.sha256(value).digest()
