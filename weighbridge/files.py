"""Small files, written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weighbridge.errors import DiskFull

PRIVATE, READABLE = 0o600, 0o666


def is_full(error: BaseException) -> bool:
    """Return whether an error means that a disk is full, or a limit of the user or the process on it is reached."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Name a full disk, and the file that was being written when it became full.

    Raises:
        DiskFull: The disk is full, in place of the system's own error.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise disk_full(path) from error


def disk_full(path: Path | str) -> DiskFull:
    """Make the error for a file that a full disk did not take."""
    return DiskFull(
        f"The disk became full while {Path(path).name} was written.",
        "Free some disk (docs/how-to/run-the-stack.md lists what may be deleted), then run the command again.",
        where=str(path),
    )


def write_whole(path: Path, content: str | bytes, mode: int = PRIVATE) -> None:
    """Write a file so that a reader, or a crash, finds either the old or the new content, never a part.

    The last step is a rename, which is also how Envoy notices a changed configuration.

    Args:
        path: File to write. Its folder is created if it is missing.
        content: The whole content.
        mode: Permission bits, less the process's umask. By default only the owner may read, because some files hold
            keys.

    Raises:
        DiskFull: The disk is full. The old content stays.
        OSError: It cannot be written.
    """
    with naming_a_full_disk(path):
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
            raise disk_full(path) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
