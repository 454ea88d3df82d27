"""MLflow's server with Weighbridge's record and rules: `mlflow server --app-name weighbridge`.

The entry point `mlflow.app` of this package names `create_app`. With `WEIGHBRIDGE_MLFLOW_AUTH` it is MLflow's
basic-auth app (mlflow[auth]), otherwise the plain server. Both record every change of the registry.

The secrets of basic-auth are read here, in the server's own process, from files of mode 0600 in `<home>/mlflow`. So
they are visible neither in supervisord's files nor in the list of processes.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from starlette.types import ASGIApp

from registry import accounts
from registry.accounts import ADMIN
from registry.audit import AuditLog
from registry.server.guard import LARGEST_FILE_BYTES, Guard
from registry.server.refusals import Refusals
from weighbridge.child_process import end_with_parent
from weighbridge.files import write_whole
from weighbridge.settings import Settings, load_settings

CACHE_SECONDS = 60
"""How long a verified password is cached; each check takes about a second of a core (PBKDF2)."""


def create_app() -> Guard:
    """Create the application for uvicorn, which `mlflow server` starts.

    Raises:
        RuntimeError: Another server is to run it, before which the guard could not stand.
    """
    if os.environ.get("_MLFLOW_SGI_NAME") != "uvicorn":
        # The variable by which MLflow's own command tells its auth app which of two applications to return.
        raise RuntimeError("MLflow's server is guarded under uvicorn only: start it without --gunicorn-opts.")
    # uvicorn is a child of MLflow's command, the only one of the two that supervisord knows.
    end_with_parent()
    # Without a target, MLflow's proxy to a gateway sends nothing anywhere.
    os.environ.pop("MLFLOW_DEPLOYMENTS_TARGET", None)
    settings = load_settings()
    application = _with_accounts(settings) if settings.mlflow_auth else _plain()
    from mlflow.server import app

    from registry.server.noting import note_heads
    from registry.server.record import record_changes

    # Added after the checks of basic-auth, because a request that they refuse changes nothing.
    record_changes(app, settings.home / "audit")
    note_heads(settings)
    return Guard(
        application,
        hosts(settings),
        Refusals(AuditLog.of(settings)),
        verify=_verify if settings.mlflow_auth else None,
        own_key="" if settings.mlflow_auth else accounts.own_key(settings),
        files=None if settings.mlflow_artifacts_url else settings.home,
        largest_file=settings.mlflow_largest_file * 2**20 if settings.mlflow_largest_file else LARGEST_FILE_BYTES,
    )


def hosts(settings: Settings) -> frozenset[str]:
    """Return the values of the header `Host` that name the server; a page that was rebound to it sends another."""
    own = (settings.host, "127.0.0.1", "localhost", "[::1]")
    further = settings.mlflow_hosts.split(",") if settings.mlflow_hosts else []
    return frozenset(name.lower() for name in [*(f"{host}:{settings.mlflow_port}" for host in own), *further])


def _with_accounts(settings: Settings) -> ASGIApp:
    configure_auth(settings)
    # The module reads its configuration when it is imported.
    from mlflow.server import app, auth

    from registry.server.rules import only_admins, tighten

    tighten()
    application: ASGIApp = auth.create_app()
    only_admins(app)
    return application


def _plain() -> ASGIApp:
    from mlflow.server.fastapi_app import app

    return app


def _verify(name: str, password: str) -> bool:
    from mlflow.server import auth

    return bool(auth.store.authenticate_user(name, password))


def configure_auth(settings: Settings) -> None:
    """Write basic-auth's configuration, key and first password, and set the variables that point to them."""
    folder = settings.home / "mlflow"
    lines = (
        "[mlflow]",
        # Without a role, an account may neither read nor write.
        "default_permission = NO_PERMISSIONS",
        f"database_uri = sqlite:///{auth_database(settings)}",
        f"admin_username = {ADMIN}",
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        f"auth_cache_ttl_seconds = {CACHE_SECONDS}",
        "",
    )
    write_whole(folder / "basic_auth.ini", "\n".join(lines))
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / "basic_auth.ini")
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = _key(folder / "flask.key")
    os.environ[accounts.ADMIN_PASSWORD] = accounts.keep_password(settings, ADMIN)


def auth_database(settings: Settings) -> Path:
    """Return the database of accounts and their rights."""
    return settings.home / "mlflow" / "auth.db"


def _key(path: Path) -> str:
    if not path.exists():
        write_whole(path, secrets.token_hex(32) + "\n")
    return path.read_text().strip()
