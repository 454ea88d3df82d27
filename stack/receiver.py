"""The receiver of MLflow's webhook: an approval, or an alias `production` moved by hand, starts `promote/LINE` at once.

    python -m stack.receiver        (the stack's service `webhook`)

It decides nothing. It starts the deployment that the schedule starts anyway, only sooner; the flow compares what the
registry asks for with what serves. It listens on loopback only, and keeps MLflow's webhook at its address and secret.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from registry.accounts import administrator
from registry.webhooks import Keys, Seen, ensure_webhook, read_delivery
from weighbridge.deployments import start
from weighbridge.errors import DeliveryRefused, ReleaseNotStarted, StackDown, StackFailed, WeighbridgeError
from weighbridge.line import line_names
from weighbridge.settings import Settings, load_settings

LOOPBACK = "127.0.0.1"
PATH = "/mlflow"
LARGEST_BODY_BYTES = 1_000_000
"""A version's description has at most 5,000 characters, and its tags a page each."""
CHECK_SECONDS = 300.0
"""Between two checks of MLflow's webhook: an emptied or restored database has lost it."""
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
                run = start(self.settings, f"promote/{line}", {}, f"webhook/{delivery.id}", only_scheduled=True)
            except (StackDown, StackFailed) as error:
                return 503, str(error)
            except ReleaseNotStarted as error:
                return 200, str(error)
            self._delivered.add(delivery.id)
        return (202, f"{line}: flow run {run}") if run else (200, f"{line}: promote/{line} is not scheduled")

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


def make_app(receiver: Receiver) -> FastAPI:
    """Build the receiver's web application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> Response:
        return Response(status_code=200 if receiver.answered.is_set() else 503)

    @app.post(PATH)
    async def delivered(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY_BYTES:
                return Response(status_code=413)
        status, text = await run_in_threadpool(receiver.receive, request.headers, body)
        log.info("%s %s", status, text)
        return JSONResponse({"said": text}, status)

    return app


def main() -> None:
    """Serve until stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = load_settings()
    receiver = Receiver(settings)
    threading.Thread(target=receiver.keep_webhook, daemon=True).start()
    uvicorn.run(make_app(receiver), host=LOOPBACK, port=settings.webhook_port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
