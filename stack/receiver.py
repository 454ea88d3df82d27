"""The receiver of MLflow's webhook: an approval, or `production` moved by hand, starts `promote/LINE` at once.

    python -m stack.receiver        (the stack's service `webhook`)

It decides nothing: it starts, sooner, the deployment that the schedule starts anyway, and that compares what is asked
for with what serves. It listens on loopback only, and holds MLflow's webhook to its own address and secret.
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
HOLD_SECONDS = 300.0
"""Between two looks at MLflow's webhook, which an emptied or restored database has not."""
FIRST_SECONDS = 1.0
"""Between two tries while MLflow has not answered yet."""

log = logging.getLogger("weighbridge.webhook")


class Receiver:
    """Believes deliveries, or not, and starts what they ask for.

    Args:
        settings: the installation's.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        folder = settings.home / "webhook"
        self.keys, self._seen, self._lock = Keys(folder), Seen(folder / "seen.json"), threading.Lock()
        self.asked = threading.Event()
        """Set once MLflow has answered, whatever it said."""

    def receive(self, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Act upon a request.

        Args:
            headers: by name in any case.
            body: as it came.

        Returns:
            HTTP status and what was done: 202 started, 200 nothing to do, 401 not believed, 503 to be tried again.
        """
        try:
            delivery = read_delivery(self.keys.secret, headers, body, time.time())
        except DeliveryRefused as error:
            return 401, str(error)
        line = delivery.model
        if not delivery.asks_to_serve or line not in line_names():
            return 200, f"{line} {delivery.entity}: nothing to do"
        # One after the other, so that the same delivery twice at once finds the first.
        with self._lock:
            if delivery.id in self._seen:
                return 200, f"{line}: delivery {delivery.id} was acted upon already"
            try:
                run = start(self.settings, f"promote/{line}", {}, f"webhook/{delivery.id}", only_scheduled=True)
            except (StackDown, StackFailed) as error:
                return 503, str(error)
            except ReleaseNotStarted as error:
                return 200, str(error)
            self._seen.add(delivery.id)
        return (202, f"{line}: flow run {run}") if run else (200, f"{line}: promote/{line} is not scheduled")

    def hold_webhook(self) -> None:
        """Keep MLflow's webhook what it should be, for ever."""
        said = ""
        while True:
            try:
                url = f"http://{LOOPBACK}:{self.settings.webhook_port}{PATH}"
                # Only an administrator may make webhooks.
                account = administrator(self.settings)
                ensure_webhook(self.settings.mlflow_url, url, self.keys.secret, account)
                self.asked.set()
                now = f"MLflow tells {url}"
            except WeighbridgeError as error:
                if not isinstance(error, StackDown):
                    self.asked.set()
                now = str(error)
            if now != said:
                log.info(now)
            said = now
            time.sleep(HOLD_SECONDS if self.asked.is_set() else FIRST_SECONDS)


def make_app(receiver: Receiver) -> FastAPI:
    """The receiver as a web application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> Response:
        return Response(status_code=200 if receiver.asked.is_set() else 503)

    @app.post(PATH)
    async def delivered(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY_BYTES:
                return Response(status_code=413)
        status, said = await run_in_threadpool(receiver.receive, request.headers, body)
        log.info("%s %s", status, said)
        return JSONResponse({"said": said}, status)

    return app


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = load_settings()
    receiver = Receiver(settings)
    threading.Thread(target=receiver.hold_webhook, daemon=True).start()
    uvicorn.run(make_app(receiver), host=LOOPBACK, port=settings.webhook_port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
