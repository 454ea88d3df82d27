"""Prefect's server behind a door: every request of its API shows the installation's secret.

    python -m stack.prefect_server        (the stack's service `prefect`)

It is the app that `prefect server start` serves. Prefect asks for the secret too; the door asks first, so that a route
that an upgrade brings is closed until somebody opens it here.
"""

from __future__ import annotations

import sys

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings

from stack.door import App, Door
from weighbridge import prefect_api
from weighbridge.errors import StackFailed
from weighbridge.settings import Settings, load_settings

OPEN = frozenset({"/api/health", "/api/ready"})
"""What is answered to everybody, apart from the files of the page, which hold nothing of the installation."""
CLOSED_PAGES = ("/api", "/docs", "/redoc", "/openapi.json")


def open_to_all(method: str, path: str) -> bool:
    """Whether a request is answered without the secret."""
    if method not in ("GET", "HEAD"):
        return False
    return path in OPEN or not path.startswith(CLOSED_PAGES)


def make_app(settings: Settings) -> App:
    """Build Prefect's app, with the door before it.

    Raises:
        StackFailed: Prefect does not ask for the installation's secret.
    """
    asked_for = get_current_settings().server.api.auth_string
    secret = prefect_api.read_secret(settings)
    if not secret or asked_for is None or asked_for.get_secret_value() != secret:
        raise StackFailed(
            "Prefect's settings do not name the installation's secret; it would serve everybody.",
            "Run `weighbridge up`, which writes the secret and the profile that names it.",
            where=str(settings.prefect_profiles),
        )
    return Door(create_app(final=True), page_url=settings.prefect_page_url, secret=secret, open_to_all=open_to_all)


def main() -> None:
    """Serve until stopped."""
    settings = load_settings()
    try:
        app = make_app(settings)
    except StackFailed as error:
        sys.exit(str(error))
    uvicorn.run(app, host=settings.host, port=settings.prefect_port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
