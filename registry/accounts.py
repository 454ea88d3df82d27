"""Accounts of MLflow: who signs in, and with which password, if MLflow has accounts (`weighbridge up --auth`).

Passwords are files of mode 0600, one an account, in `<home>/mlflow/passwords`. They never appear on a command line, in
a log or in a configuration. A process signs in as MLflow's own client does, by MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD or by `~/.mlflow/credentials`. A process that names no account uses the pipeline's.
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
"""Accounts of every installation: one gives rights, the other runs release, promote and rollback."""
USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"
SHORTEST_PASSWORD = 12
"""Fewest characters that MLflow 3.17.2 accepts."""
OTHERS = 0o077
"""Permission bits that a file with a password must not have."""


def password_file(settings: Settings, account: str) -> Path:
    """Return the file of an account's password on the installation's machine."""
    return settings.home / "mlflow" / "passwords" / account


def password_variable(account: str) -> str:
    """Return the variable that may hold an account's password; the admin's is MLflow's own."""
    if account == ADMIN:
        return ADMIN_PASSWORD
    return "WEIGHBRIDGE_PASSWORD_" + "".join(letter if letter.isalnum() else "_" for letter in account.upper())


def read_password(path: Path) -> str:
    """Read a password from a file.

    Raises:
        PasswordUnusable: There is no such file, others may read it, or the password is too short.
    """
    try:
        mode, password = path.stat().st_mode, path.read_text().strip()
    except OSError as error:
        raise PasswordUnusable(f"No password can be read there: {error.strerror}.", NEXT, where=str(path)) from None
    if mode & OTHERS:
        raise PasswordUnusable(
            f"The password can be read by others (mode {mode & 0o777:04o}).",
            f"Run `chmod 600 {path}`, and change the password if others could log in to this machine.",
            where=str(path),
        )
    return _checked(password, str(path))


def given_password(settings: Settings, account: str, named: Path | None = None) -> tuple[str, str]:
    """Find the password for an account, and its origin: the variable, else the named file, else the kept file.

    Returns:
        Password and origin; both empty if there is none yet.

    Raises:
        PasswordUnusable: The password cannot be used.
    """
    variable, default_path = password_variable(account), password_file(settings, account)
    if given := os.environ.get(variable):
        return _checked(given, f"${variable}"), f"${variable}"
    path = named or default_path
    return (read_password(path), str(path)) if named or default_path.exists() else ("", "")


def keep_password(settings: Settings, account: str) -> str:
    """Return an account's kept password; if there is none, keep that of its variable, or a new one."""
    path = password_file(settings, account)
    if path.exists():
        return read_password(path)
    password = given_password(settings, account)[0] or secrets.token_urlsafe(24)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, password + "\n")
    return password


def own_key_file(settings: Settings) -> Path:
    """Return the file of the key by which an MLflow without accounts knows the installation's own programs."""
    return settings.home / "mlflow" / "own.key"


def own_key(settings: Settings) -> str:
    """Return the key by which an MLflow without accounts knows the installation's own programs, made at first use.

    Raises:
        PasswordUnusable: The file cannot be used.
    """
    path = own_key_file(settings)
    if not path.exists():
        write_whole(path, secrets.token_urlsafe(32) + "\n")
    return read_password(path)


def administrator(settings: Settings) -> tuple[str, str] | None:
    """Return the name and password that MLflow asks an administrator's requests for.

    Returns:
        None before MLflow's first start, which makes the password, or, without accounts, the key.

    Raises:
        PasswordUnusable: The file with the password cannot be used.
    """
    path = password_file(settings, ADMIN) if settings.mlflow_auth else own_key_file(settings)
    return (ADMIN, read_password(path)) if path.exists() else None


def sign_in(settings: Settings) -> None:
    """Sign this process in to MLflow; harmless if MLflow has no accounts.

    Raises:
        PasswordUnusable: The account's password file cannot be used.
    """
    if not settings.mlflow_auth or os.environ.get(PASSWORD) or (signed_in_as() and not os.environ.get(USERNAME)):
        return
    account = os.environ.get(USERNAME) or PIPELINE
    if password_file(settings, account).exists():
        os.environ[USERNAME], os.environ[PASSWORD] = account, read_password(password_file(settings, account))


def signed_in_as() -> str:
    """Return the account of this process's requests to MLflow; empty without one."""
    if named := os.environ.get(USERNAME):
        return named
    found = configparser.ConfigParser()
    found.read(Path("~/.mlflow/credentials").expanduser())
    return found.get("mlflow", USERNAME.lower(), fallback="")


def credentials() -> tuple[str, str]:
    """Return the name and the password of this process's requests to MLflow, found as MLflow's own client does."""
    found = configparser.ConfigParser()
    found.read(Path("~/.mlflow/credentials").expanduser())
    return (
        os.environ.get(USERNAME) or str(found.get("mlflow", USERNAME.lower(), fallback="")),
        os.environ.get(PASSWORD) or str(found.get("mlflow", PASSWORD.lower(), fallback="")),
    )


@contextmanager
def signed_in(account: str, password: str) -> Iterator[None]:
    """Use another account for the duration of a block."""
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
