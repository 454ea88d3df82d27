"""Every exception becomes a named error: what it was, where, and what to do next. Nothing secret is in it.

The command line and every step of a flow end here. What no class of `weighbridge/errors.py` describes is `Unexpected`,
and its traceback is kept in a file that only the user may read.
"""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path

from weighbridge.errors import (
    DiskFull,
    FileUnusable,
    InstallationBroken,
    Interrupted,
    RequestFailed,
    Unexpected,
    WeighbridgeError,
)
from weighbridge.files import disk_full, is_full
from weighbridge.home import home_folder

FOLDER = "failures"
"""Below the folder of logs."""
LONGEST = 300
"""Characters of an exception's own message that are quoted."""
HIDDEN = "***"
NETWORK = ("httpx", "httpcore", "requests", "urllib3", "aiohttp", "botocore", "ssl", "socket")
"""Packages whose exceptions are about a request."""

_SECRETS = (
    (re.compile(r"(\w+://)[^/\s@]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)\b((?:proxy-)?authorization|cookie|set-cookie)\b(\W{1,6})[^\r\n'\"]+"), rf"\1\2{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (
        re.compile(
            r"(?i)([\w-]*(?:password|passwd|passphrase|secret|token|api[_-]?key))(['\"]?\s*[=:]\s*)['\"]?[^\s'\",&}]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\b(?:hf_|sk-|ghp_|xox[bap]-|AKIA|ASIA)[A-Za-z0-9_-]{8,}"), HIDDEN),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END|\Z)", re.DOTALL), HIDDEN),
)
_SECRET_NAMES = re.compile(r"(?i)(password|passwd|secret|token|credential|auth_string|(api|access|private)_?key)")


def named(error: BaseException, keep: bool = True) -> WeighbridgeError:
    """Name an exception.

    Args:
        error: Anything that was raised.
        keep: Whether the traceback of an unexpected one is kept in a file, which the error then names.
    """
    if isinstance(error, WeighbridgeError):
        return error
    known = _known(error)
    if known is not None:
        return known
    place = _last_own_line(error)
    log = _keep(error) if keep else None
    return Unexpected(
        f"{_kind(error)}{f': {text}' if (text := _text(error)) else ''}.",
        "This is a fault in Weighbridge or in a library. "
        + (f"The traceback is in {log}; report it with the command that you ran." if log else "Report the command."),
        where=place,
    )


def redact(text: str) -> str:
    """Replace what looks like a secret, and the value of every variable that is called like one."""
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAMES.search(name):
            text = text.replace(value, HIDDEN)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _known(error: BaseException) -> WeighbridgeError | None:
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("Interrupted.", "Run the same command again: it continues where it stopped.")
    if is_full(error):
        return disk_full(getattr(error, "filename", None) or "a file")
    if isinstance(error, MemoryError):
        return Unexpected(
            "The memory of this machine, or of this process, did not suffice.", "Free some, and try again."
        )
    if isinstance(error, RecursionError):
        return FileUnusable(
            "Something is nested too deeply to be read.",
            "Look at the file that the command reads; a written one has a few levels.",
            where=_last_own_line(error),
        )
    if isinstance(error, sqlite3.Error):
        return _of_database(error)
    if isinstance(error, ImportError):
        return InstallationBroken(
            f"A part of the installation cannot be loaded: {_text(error)}.", "Run `make install` again in the checkout."
        )
    if isinstance(error, UnicodeError):
        return FileUnusable(
            f"A text is not UTF-8: {_text(error)}.",
            "Save the file that the command reads as UTF-8.",
            where=_last_own_line(error),
        )
    if type(error).__module__.split(".")[0] in NETWORK or isinstance(error, (ConnectionError, TimeoutError)):
        return RequestFailed(
            f"A request failed: {_kind(error)}{f': {text}' if (text := _text(error)) else ''}.",
            "Look whether `weighbridge status` is well and the network is there, then run the same command again.",
        )
    if isinstance(error, OSError) and error.filename is not None:
        return FileUnusable(
            f"{error.strerror or _kind(error)}: {error.filename!r}.",
            "Look at the path, its owner and its permissions, then run the command again.",
            where=str(error.filename),
        )
    return None


def _of_database(error: sqlite3.Error) -> WeighbridgeError:
    if "full" in str(error):
        return DiskFull(f"The disk is full: {error}.", "Free some disk, then run the command again.")
    return FileUnusable(
        f"A database cannot be used: {_text(error)}.",
        "Look whether another process holds it, and at its folder's permissions; then run the command again.",
        where=_last_own_line(error),
    )


def _kind(error: BaseException) -> str:
    return type(error).__name__


def _text(error: BaseException) -> str:
    """Quote the first line of an exception's message, without secrets."""
    try:
        lines = redact(str(error)).strip().splitlines()
    except Exception:
        # The exception's own __str__ may be what is broken.
        return ""
    return lines[0][:LONGEST].rstrip(".") if lines else ""


def _last_own_line(error: BaseException) -> str:
    """Name the last line of Weighbridge's own code in a traceback."""
    own = Path(__file__).parent.parent
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(own) and "site-packages" not in path.parts:
            place = f"{path.relative_to(own)}, line {line}"
    return place


def _keep(error: BaseException) -> Path | None:
    """Write a traceback to a file of its own; None if there is no place for it."""
    text = redact("".join(traceback.TracebackException.from_exception(error, capture_locals=False).format()))
    prefix = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-"
    for folder in (home_folder() / "logs" / FOLDER, None):
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Of mode 0600, and never through a link that somebody prepared.
            descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".log", dir=folder)
            with os.fdopen(descriptor, "w", errors="backslashreplace") as file:
                file.write(text)
            return Path(name)
        except OSError:
            continue
    return None
