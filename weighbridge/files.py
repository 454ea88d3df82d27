"""Small files: read as YAML, written whole or not at all, and the disk that has no room for them."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path
from typing import Any

import yaml

from weighbridge.errors import DiskFull

# libyaml's own scanner is ten times as fast, and most wheels have it.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
PRIVATE, READABLE = 0o600, 0o666


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full, or a user's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def read_yaml(path: Path) -> Any:
    """What a YAML file says, without running anything that it names.

    Raises:
        OSError: it cannot be read.
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(path.read_text(), Loader=LOADER)


def write_whole(path: Path, content: str | bytes, mode: int = PRIVATE) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new, and never a part.

    Envoy notices a file of its own by this very rename.

    Args:
        path: its folder is made where it is missing.
        content: all of it.
        mode: permission bits, less the process's umask; only the owner's by default, for some of these hold keys.

    Raises:
        DiskFull: there is no room for it; the old content stays.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if is_full(error):
            raise DiskFull(
                f"The disk became full while {path.name} was written.",
                "Free some disk (docs/how-to/run-the-stack.md says what may be deleted), then run the command again.",
                where=str(path),
            ) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
