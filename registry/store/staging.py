"""Folders to build artifacts in, on the store's own disk, so that a rename moves the result into place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from registry.store.place import LOCKS, STAGING, require_real
from weighbridge.errors import DiskFull
from weighbridge.units import GIB


class Workshop:
    """The part of a store in which artifacts are built."""

    folder: Path
    """Root of the store."""

    def staging(self, line: str, key: str) -> Path:
        """Return a folder to build in, on the store's own disk; the same key finds the same folder after a crash.

        The builder must hold `building(line, key)` meanwhile, or `clean` takes the folder for a leftover.

        Raises:
            ArtifactDamaged: A folder on its path is a link or no folder.
        """
        require_real(self.folder, line, STAGING, key)
        folder = self.folder / line / STAGING / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def building(self, line: str, key: str) -> FileLock:
        """Return the lock of a staging folder. A killed process leaves the file, but the lock is free."""
        require_real(self.folder, line, LOCKS)
        folder = self.folder / line / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{key}.lock")

    @contextmanager
    def fresh_staging(self, line: str, key: str) -> Iterator[Path]:
        """Yield an empty folder to build in, which is removed if the build fails."""
        folder = self.staging(line, key)
        with self.building(line, key):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def require_free(self, need_bytes: int, what: str) -> None:
        """Check that the store's disk has room before something large is written.

        Args:
            need_bytes: Bytes that will be written.
            what: What will be written, for the message.

        Raises:
            DiskFull: Fewer than `need_bytes` are free.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < need_bytes:
            raise DiskFull(
                f"{what} needs {need_bytes / GIB:.2f} GiB and {free / GIB:.2f} GiB are free.",
                "Free some disk (`weighbridge store gc --dry-run` says what can go), or set WEIGHBRIDGE_HOME to a "
                "larger disk. Finished work is kept.",
                where=str(self.folder),
            )
