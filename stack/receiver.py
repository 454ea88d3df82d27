"""The receiver of MLflow's webhook: an approval, or an alias `production` moved by hand, starts `promote/LINE` at once.

    python -m stack.receiver        (the stack's service `webhook`)

It also keeps the gateway's logs in order, because it always runs. It decides nothing.
It starts the line's deployment, also where its schedule is not active; the flow compares what the
registry asks for with what serves. It listens on loopback only, and keeps MLflow's webhook at its address and secret.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from registry.accounts import administrator
from registry.webhooks import Keys, Seen, check_headers, ensure_webhook, read_delivery
from stack.door import Door
from tasks.serve.gateway import Gateway
from weighbridge.deployments import start
from weighbridge.errors import DeliveryRefused, ReleaseNotStarted, StackDown, StackFailed, WeighbridgeError
from weighbridge.line import line_names
from weighbridge.settings import Settings, load_settings
from weighbridge.terminal import on_one_line

LOOPBACK = "127.0.0.1"
PATH = "/mlflow"
BODY_SECONDS = HEADER_SECONDS = 10.0
"""Time for a request's body, and for its first line and headers."""
LARGEST_BODY_BYTES = 1_000_000
"""A version's description has at most 5,000 characters, and its tags a page each."""
CHECK_SECONDS = 300.0
"""Between two checks of MLflow's webhook: an emptied or restored database has lost it."""
LOG_SECONDS = 60.0
"""Between two looks at the gateway's logs."""
RETRY_SECONDS = 1.0
"""Between two attempts until MLflow answers."""

log = logging.getLogger("weighbridge.webhook")


class Receiver:
    """Check deliveries, and start the promotions that they ask for.

    Args:
        settings: of the installation.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        folder = settings.home / "webhook"
        self.keys, self._delivered, self._lock = Keys(folder), Seen(folder / "seen.json"), threading.Lock()
        self.answered = threading.Event()
        """Set once MLflow has answered, even with a refusal."""

    def receive(self, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Handle a request.

        Args:
            headers: names in any case.
            body: as received.

        Returns:
            HTTP status and what was done: 202 started, 200 nothing to do, 401 not authentic, 503 retry.
        """
        try:
            delivery = read_delivery(self.keys.secret, headers, body, time.time())
        except DeliveryRefused as error:
            return 401, str(error)
        line = delivery.model
        if not delivery.asks_to_serve or line not in line_names():
            return 200, f"{line} {delivery.entity}: nothing to do"
        # One after the other: of two copies of a delivery the second must find the first.
        with self._lock:
            if delivery.id in self._delivered:
                return 200, f"{line}: delivery {delivery.id} was handled already"
            try:
                run = start(self.settings, f"promote/{line}", {}, f"webhook/{delivery.id}")
            except (StackDown, StackFailed) as error:
                return 503, str(error)
            except ReleaseNotStarted as error:
                return 200, str(error)
            self._delivered.add(delivery.id)
        return 202, f"{line}: flow run {run}"

    def keep_webhook(self) -> None:
        """Register MLflow's webhook, and register it again whenever it is lost; never returns."""
        last_state = ""
        while True:
            try:
                url = f"http://{LOOPBACK}:{self.settings.webhook_port}{PATH}"
                # Only an administrator may make webhooks.
                account = administrator(self.settings)
                ensure_webhook(self.settings.mlflow_url, url, self.keys.secret, account)
                self.answered.set()
                state = f"MLflow calls {url}"
            except WeighbridgeError as error:
                if not isinstance(error, StackDown):
                    self.answered.set()
                state = str(error)
            if state != last_state:
                log.info(state)
            last_state = state
            time.sleep(CHECK_SECONDS if self.answered.is_set() else RETRY_SECONDS)


def keep_logs(settings: Settings) -> None:
    """Rotate the gateway's logs whenever it is due; never returns."""
    gateway = Gateway(settings)
    while True:
        try:
            gateway.keep_logs()
        except (OSError, ValueError, WeighbridgeError):
            # A full disk, for one: later it may go.
            log.exception("the gateway's logs could not be kept in order")
        time.sleep(LOG_SECONDS)


def make_app(receiver: Receiver) -> FastAPI:
    """Build the receiver's web application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> Response:
        return Response(status_code=200 if receiver.answered.is_set() else 503)

    @app.post(PATH)
    async def delivered(request: Request) -> Response:
        try:
            check_headers(request.headers, time.time())
            body = await asyncio.wait_for(_body(request), BODY_SECONDS)
        except DeliveryRefused as error:
            return _answer(401, str(error))
        except (TimeoutError, ClientDisconnect):
            return _answer(408, "The body did not arrive in time.")
        if body is None:
            return _answer(413, f"The body has more than {LARGEST_BODY_BYTES} bytes.")
        return _answer(*await run_in_threadpool(receiver.receive, request.headers, body))

    return app


async def _body(request: Request) -> bytes | None:
    """The body; None if it is too large."""
    # Before anything of it is read, where the sender says so.
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > 9 or int(declared) > LARGEST_BODY_BYTES:
        return None
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY_BYTES:
            return None
    return bytes(body)


def _answer(status: int, text: str) -> Response:
    # A model's name is in it, and a builder chooses those.
    log.info("%s %s", status, on_one_line(text))
    return JSONResponse({"said": text}, status)


class _HeaderDeadline(H11Protocol):
    """HTTP that closes a connection whose request has not begun in time; uvicorn waits for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)


def main() -> None:
    """Serve until stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = load_settings()
    receiver = Receiver(settings)
    threading.Thread(target=receiver.keep_webhook, daemon=True).start()
    threading.Thread(target=keep_logs, args=(settings,), daemon=True).start()
    uvicorn.run(
        Door(make_app(receiver)),
        host=LOOPBACK,
        port=settings.webhook_port,
        http=_HeaderDeadline,
        # One request a connection, so that each begins in time.
        headers=[("connection", "close")],
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
