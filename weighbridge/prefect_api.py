"""The API of the installation's Prefect server: the secret that guards it, and a client that shows the secret.

Prefect takes the secret from a profile in `<home>/prefect/profiles.toml`, which the variable PREFECT_PROFILES_PATH
names for every process of the installation, and `[tool.prefect]` in pyproject.toml for a `prefect` typed in the
checkout. So the secret is in two files that only their owner reads, and in no list of processes, environment of a
service or log.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from pathlib import Path

import httpx

from weighbridge.files import PRIVATE, write_whole
from weighbridge.settings import Settings

USER = "weighbridge"
PROFILE = "weighbridge"
SECRET_BYTES = 32
RETRY_SECONDS = 0.5


def secret_file(settings: Settings) -> Path:
    """The file with what Prefect calls the auth string: `weighbridge:` and a random password."""
    return settings.home / "prefect" / "auth-string"


def keep_secret(settings: Settings) -> None:
    """Make the secret where there is none, and write the profile from which Prefect takes it; harmless to repeat.

    Raises:
        DiskFull: The disk is full.
    """
    path = secret_file(settings)
    if not read_secret(settings):
        write_whole(path, f"{USER}:{secrets.token_urlsafe(SECRET_BYTES)}\n", PRIVATE)
    path.chmod(PRIVATE)
    secret = read_secret(settings)
    profile = f"""# Written by `weighbridge up`, which also replaces changes. Keep it private: it holds a secret.
active = "{PROFILE}"

[profiles.{PROFILE}]
PREFECT_API_URL = "{settings.prefect_url}/api"
PREFECT_API_AUTH_STRING = "{secret}"
PREFECT_SERVER_API_AUTH_STRING = "{secret}"
"""
    if not settings.prefect_profiles.is_file() or settings.prefect_profiles.read_text() != profile:
        write_whole(settings.prefect_profiles, profile, PRIVATE)
    settings.prefect_profiles.chmod(PRIVATE)


def read_secret(settings: Settings) -> str:
    """The secret; empty where `weighbridge up` has made none yet."""
    try:
        return secret_file(settings).read_text().strip()
    except FileNotFoundError:
        return ""


def secret_mark(settings: Settings) -> str:
    """A mark that changes with the secret, and from which it cannot be found."""
    return hashlib.sha256(read_secret(settings).encode()).hexdigest()[:16]


def client(settings: Settings, timeout: float = 30, retry_seconds: float = 0) -> httpx.Client:
    """Open a client of the API that shows the secret.

    Plain HTTP, because importing Prefect takes seconds and 200 MiB.

    Args:
        settings: Settings of the installation.
        timeout: Seconds to wait for an answer.
        retry_seconds: Seconds for which a request is repeated that Prefect answers with 503. It has done nothing
            then: on a busy machine its database was locked.
    """
    user, _, password = read_secret(settings).partition(":")
    return httpx.Client(
        base_url=f"{settings.prefect_url}/api",
        auth=(user, password) if password else None,
        timeout=timeout,
        # A proxy would see the secret.
        trust_env=False,
        transport=_RetryWhileBusy(retry_seconds),
    )


class _RetryWhileBusy(httpx.HTTPTransport):
    def __init__(self, retry_seconds: float) -> None:
        super().__init__(trust_env=False)
        self._retry_seconds = retry_seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + self._retry_seconds
        while True:
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                return response
            response.close()
            time.sleep(RETRY_SECONDS)
