"""Notifications to people: by apprise, to the addresses that the operator wrote into a file of mode 0600.

An address has a secret in it (a token, a password), so it is neither a variable, which every process of the stack would
carry, nor ever printed: messages name it by its line in the file and its service.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict

from weighbridge.documents import read_json
from weighbridge.errors import DocumentInvalid, SettingsInvalid
from weighbridge.files import write_whole

if TYPE_CHECKING:
    import apprise

    from weighbridge.settings import Settings

LARGEST_BYTES, MOST_ADDRESSES = 64_000, 20
OTHERS = 0o077
"""Permission bits that a file with secrets must not have."""
RETRIES, RETRY_SECONDS = 2, 1.0
LONGEST_TEXT = 3000
PLAIN = {"https": "jsons", "http": "json"}
"""Scheme of a plain webhook -> apprise's, which posts JSON with `title`, `message` and `type`."""
ADDRESSES_LOGGED = ("apprise", "urllib3.connectionpool")
INFORM, WARN = "success", "failure"
"""Kinds of a notification, as apprise and a webhook's JSON have them."""


class Delivery(BaseModel):
    """What became of a notification at one address."""

    model_config = ConfigDict(frozen=True)

    line: int
    """Line of the file."""
    service: str
    """Such as Slack; never the address."""
    delivered: bool


def addresses_file(settings: Settings) -> Path:
    """File of the addresses: WEIGHBRIDGE_NOTIFY_FILE, else `notify.txt` in the home."""
    return settings.notify_file or settings.home / "notify.txt"


def read_addresses(settings: Settings) -> dict[int, str]:
    """Read the addresses by their lines; empty without a file.

    Raises:
        SettingsInvalid: The file cannot be read, can be read by others, or is larger than any real one.
    """
    path = addresses_file(settings)
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsInvalid(
            f"The addresses for notifications cannot be read: {reason}.", "Write one address a line.", where=str(path)
        ) from None
    if mode & OTHERS:
        raise SettingsInvalid(
            f"The addresses for notifications can be read by others (mode {mode & 0o777:04o}).",
            f"Run `chmod 600 {path}`, and replace the secrets in it if others could log in to this machine.",
            where=str(path),
        )
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    found = {number: line for number, line in lines if line and not line.startswith("#")}
    if len(text) > LARGEST_BYTES or len(found) > MOST_ADDRESSES:
        raise SettingsInvalid(
            f"There are {len(found)} addresses for notifications; {MOST_ADDRESSES} are the most.",
            "Send to one channel, from which others are told.",
            where=str(path),
        )
    return found


def send(settings: Settings, title: str, text: str, kind: str = INFORM) -> list[Delivery]:
    """Send a notification to every address, with retries; redirects are not followed.

    Args:
        settings: Name the file of addresses.
        title: One line.
        text: Plain text.
        kind: INFORM or WARN.

    Raises:
        SettingsInvalid: The file, or an address in it, cannot be used.
    """
    with _without_their_logs():
        services = {number: _service(settings, number, line) for number, line in read_addresses(settings).items()}
        return [
            Delivery(line=number, service=str(service.service_name), delivered=_notify(service, title, text, kind))
            for number, service in services.items()
        ]


def is_repeated(settings: Settings, about: str, text: str) -> bool:
    """Note what is about to be sent, and return whether the same was sent last; a schedule fails every ten minutes.

    Args:
        settings: Name the home.
        about: Such as `promote/llama`.
        text: Empty to forget what was sent, because that is over.
    """
    path = settings.home / "notified.json"
    try:
        kept = read_json(path)
    except DocumentInvalid:
        kept = {}
    known = {str(name): str(digest) for name, digest in kept.items()} if isinstance(kept, dict) else {}
    digest = hashlib.sha256(text.encode()).hexdigest() if text else ""
    if known.get(about, "") == digest:
        return bool(text)
    write_whole(path, _as_json({**known, about: digest}))
    return False


@contextmanager
def _without_their_logs() -> Iterator[None]:
    """Silence the loggers that would write addresses down: at the level DEBUG, each request with its query."""
    loggers = [logging.getLogger(name) for name in ADDRESSES_LOGGED]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _as_json(known: dict[str, str]) -> str:
    import json

    return json.dumps({name: digest for name, digest in known.items() if digest}, indent=1)


def _service(settings: Settings, number: int, address: str) -> apprise.NotifyBase:
    import apprise

    asset = apprise.AppriseAsset(
        app_id="Weighbridge",
        app_desc="Weighbridge",
        app_url="",
        http_redirects=False,
        default_service_retry=RETRIES,
        default_service_wait=RETRY_SECONDS,
        secure_logging=True,
        image_url_mask="",
        image_url_logo="",
    )
    service = apprise.Apprise.instantiate(address, asset=asset) or apprise.Apprise.instantiate(
        _as_webhook(address), asset=asset
    )
    if not isinstance(service, apprise.NotifyBase):
        scheme = address.partition(":")[0] if "://" in address else "no scheme"
        raise SettingsInvalid(
            f"Line {number} of the addresses for notifications ({scheme}) is none that can be used here.",
            "Write it as apprise has it (`slack://…`, `mailto://…`), or a webhook's `https://…`. A desktop's address "
            "(`dbus://`, `macosx://`, `windows://`) needs that desktop. Then run `weighbridge notify test`.",
            where=str(addresses_file(settings)),
        )
    return service


def _as_webhook(address: str) -> str:
    """Write a plain webhook's address as apprise has it: its query is sent, and `+NAME=VALUE` becomes a header."""
    parts = urlsplit(address)
    if parts.scheme not in PLAIN:
        return address
    fields = [(name if name[:1] in "+-:" else f"-{name}", value) for name, value in parse_qsl(parts.query)]
    return urlunsplit(parts._replace(scheme=PLAIN[parts.scheme], query=urlencode(fields)))


def _notify(service: apprise.NotifyBase, title: str, text: str, kind: str) -> bool:
    import apprise

    notify_type = apprise.NotifyType.SUCCESS if kind == INFORM else apprise.NotifyType.FAILURE
    body = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    sender = apprise.Apprise(asset=service.asset)
    sender.add(service)
    return bool(sender.notify(body=body, title=title, notify_type=notify_type, body_format=apprise.NotifyFormat.TEXT))
