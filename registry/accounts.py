"""Who signs in to MLflow, and with which password, when it asks for one (`weighbridge up --auth`).

Passwords are files of mode 0600, one an account, in `<home>/mlflow/passwords`; nothing of them stands on a command
line, in a log or in a configuration. A process signs in as MLflow's own client does, by MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD or by `~/.mlflow/credentials`; one that says nothing is the pipeline's account.
"""

from __future__ import annotations

import configparser
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weighbridge.errors import PasswordUnusable
from weighbridge.files import write_whole
from weighbridge.settings import Settings

ADMIN, PIPELINE = "admin", "weighbridge"
"""Accounts of every installation: who gives rights, and who runs release, promote and rollback."""
USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"
SHORTEST_PASSWORD = 12
"""Characters that MLflow 3.17.2 demands."""
OTHERS = 0o077
"""Permission bits that a file with a password may not have."""


def password_file(settings: Settings, account: str) -> Path:
    """Where an account's password is kept on the installation's own machine."""
    return settings.home / "mlflow" / "passwords" / account


def password_variable(account: str) -> str:
    """Which variable may bring an account's password; the admin's is MLflow's own."""
    if account == ADMIN:
        return ADMIN_PASSWORD
    return "WEIGHBRIDGE_PASSWORD_" + "".join(one if one.isalnum() else "_" for one in account.upper())


def read_password(path: Path) -> str:
    """A password from a file.

    Raises:
        PasswordUnusable: there is none, others may read it, or it is too short.
    """
    try:
        mode, password = path.stat().st_mode, path.read_text().strip()
    except OSError as error:
        raise PasswordUnusable(f"No password can be read there: {error.strerror}.", NEXT, where=str(path)) from None
    if mode & OTHERS:
        raise PasswordUnusable(
            f"The password can be read by others (mode {mode & 0o777:04o}).",
            f"Run `chmod 600 {path}`, and change the password if somebody else was on this machine.",
            where=str(path),
        )
    return _checked(password, str(path))


def given_password(settings: Settings, account: str, named: Path | None = None) -> tuple[str, str]:
    """The password that an account is to have, and where it comes from: a variable, the file named, or the kept one.

    Returns:
        Two empty strings where nobody gave one yet.

    Raises:
        PasswordUnusable: what was given is none.
    """
    variable, kept = password_variable(account), password_file(settings, account)
    if given := os.environ.get(variable):
        return _checked(given, f"${variable}"), f"${variable}"
    path = named or kept
    return (read_password(path), str(path)) if named or kept.exists() else ("", "")


def keep_password(settings: Settings, account: str) -> str:
    """Have an account's password on file: what is there, else what its variable brings, else a new one."""
    path = password_file(settings, account)
    if path.exists():
        return read_password(path)
    password = given_password(settings, account)[0] or secrets.token_urlsafe(24)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, password + "\n")
    return password


def administrator(settings: Settings) -> tuple[str, str] | None:
    """Name and password of the installation's administrator; None where MLflow asks for none, or none is kept.

    Raises:
        PasswordUnusable: the file with the password cannot be used.
    """
    path = password_file(settings, ADMIN)
    return (ADMIN, read_password(path)) if settings.mlflow_auth and path.exists() else None


def sign_in(settings: Settings) -> None:
    """Let this process's requests to MLflow carry a name; harmless where MLflow asks for none.

    Raises:
        PasswordUnusable: the account's password file cannot be used.
    """
    if not settings.mlflow_auth or os.environ.get(PASSWORD) or (signed_in_as() and not os.environ.get(USERNAME)):
        return
    account = os.environ.get(USERNAME) or PIPELINE
    if password_file(settings, account).exists():
        os.environ[USERNAME], os.environ[PASSWORD] = account, read_password(password_file(settings, account))


def signed_in_as() -> str:
    """Whose name this process's requests to MLflow carry; empty where they carry none."""
    if named := os.environ.get(USERNAME):
        return named
    found = configparser.ConfigParser()
    found.read(Path("~/.mlflow/credentials").expanduser())
    return found.get("mlflow", USERNAME.lower(), fallback="")


@contextmanager
def signed_in(account: str, password: str) -> Iterator[None]:
    """Be an account for a while, whoever this process is otherwise."""
    before = {name: os.environ.get(name) for name in (USERNAME, PASSWORD)}
    os.environ.update({USERNAME: account, PASSWORD: password})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _checked(password: str, where: str) -> str:
    if len(password) < SHORTEST_PASSWORD:
        raise PasswordUnusable(
            f"The password has {len(password)} characters; MLflow demands {SHORTEST_PASSWORD}.", NEXT, where=where
        )
    return password


NEXT = "Put a password of 12 characters or more into a file of mode 0600, or into the account's variable."
