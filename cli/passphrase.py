"""Ask for a passphrase: in a file, in the environment, or at the terminal; never on the command line, which all see."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from registry.backup import require_strong
from weighbridge.errors import PassphraseUnusable

VARIABLE = "WEIGHBRIDGE_BACKUP_PASSPHRASE"
OTHERS = 0o077
"""Permission bits that a file with a passphrase must not have."""
NEXT = f"Name a file of mode 0600 with --passphrase-file, or set {VARIABLE}."


def new_passphrase(file: Path | None) -> str:
    """Return a passphrase for a new backup; at the terminal it is asked for twice.

    Raises:
        PassphraseUnusable: There is none, it is too short, or others can read the file.
    """
    passphrase = _given(file) or _asked("Passphrase for the secrets in this backup", confirm=True)
    require_strong(passphrase)
    return passphrase


def known_passphrase(file: Path | None) -> str:
    """Return the passphrase of a backup.

    Raises:
        PassphraseUnusable: There is none, or others can read the file.
    """
    return _given(file) or _asked("Passphrase of this backup", confirm=False)


def _given(file: Path | None) -> str:
    if file is None:
        return os.environ.get(VARIABLE, "")
    try:
        mode, passphrase = file.stat().st_mode, file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PassphraseUnusable(f"No passphrase can be read there: {error}.", NEXT, where=str(file)) from None
    if mode & OTHERS:
        raise PassphraseUnusable(
            f"The passphrase can be read by others (mode {mode & 0o777:04o}).",
            f"Run `chmod 600 {file}`, and take another passphrase if others could log in to this machine.",
            where=str(file),
        )
    if not passphrase:
        raise PassphraseUnusable("The file with the passphrase is empty.", NEXT, where=str(file))
    return passphrase


def _asked(what: str, *, confirm: bool) -> str:
    if not sys.stdin.isatty():
        raise PassphraseUnusable("The secrets need a passphrase, and there is no terminal to ask at.", NEXT)
    answer: str = typer.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True)
    return answer
