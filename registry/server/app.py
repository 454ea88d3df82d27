"""MLflow's server with Weighbridge's record and rules: `mlflow server --app-name weighbridge`.

The entry point `mlflow.app` of this package names `create_app`. With `WEIGHBRIDGE_MLFLOW_AUTH` it is MLflow's own
basic-auth app (mlflow[auth]), without it the plain server; both write down every change of the registry.

The secrets that basic-auth needs come from files of mode 0600 in `<home>/mlflow`, read here, in the server's own
process: neither supervisord's files nor any process's start shows them.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from registry import accounts
from registry.accounts import ADMIN
from weighbridge.files import READABLE, write_whole
from weighbridge.settings import Settings, load_settings

CACHE_SECONDS = 60
"""How long a checked password counts; each check takes about a second of a core (PBKDF2)."""


def create_app() -> Any:
    """The application that uvicorn (ASGI) or gunicorn (WSGI) serves, whichever `mlflow server` starts."""
    settings = load_settings()
    made = _with_accounts(settings) if settings.mlflow_auth else _plain()
    from mlflow.server import app

    from registry.server.record import record_changes

    # After the checks of basic-auth: what they refuse changes nothing.
    record_changes(app, settings.home / "audit")
    return made


def _with_accounts(settings: Settings) -> Any:
    configure_auth(settings)
    # It reads its configuration when it is imported.
    from mlflow.server import auth

    from registry.server.rules import tighten

    tighten()
    return auth.create_app()


def _plain() -> Any:
    # As MLflow's own command tells its auth app which of the two is wanted.
    if os.environ.get("_MLFLOW_SGI_NAME") == "uvicorn":
        from mlflow.server.fastapi_app import app as asgi

        return asgi
    from mlflow.server import app as wsgi

    return wsgi


def configure_auth(settings: Settings) -> None:
    """Have basic-auth's configuration, key and first password ready, and tell this process where they are."""
    folder = settings.home / "mlflow"
    lines = (
        "[mlflow]",
        # Nobody sees or does what no role gives.
        "default_permission = NO_PERMISSIONS",
        f"database_uri = sqlite:///{auth_database(settings)}",
        f"admin_username = {ADMIN}",
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        f"auth_cache_ttl_seconds = {CACHE_SECONDS}",
        "",
    )
    write_whole(folder / "basic_auth.ini", "\n".join(lines), READABLE)
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / "basic_auth.ini")
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = _key(folder / "flask.key")
    os.environ[accounts.ADMIN_PASSWORD] = accounts.keep_password(settings, ADMIN)


def auth_database(settings: Settings) -> Path:
    """Where the accounts and their rights are kept."""
    return settings.home / "mlflow" / "auth.db"


def _key(path: Path) -> str:
    if not path.exists():
        write_whole(path, secrets.token_hex(32) + "\n")
    return path.read_text().strip()
