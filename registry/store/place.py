"""How an artifact comes into its place and leaves it: whole, or not at all."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from registry.store.artifact import sync, sync_one
from registry.store.entry import Entry
from registry.store.tree import list_tree, opened_folder
from weighbridge.errors import ArtifactDamaged

STAGING, LOCKS = ".staging", ".locks"
READ_BITS, FOLDER_BITS = 0o444, 0o755
"""Permission bits that a file and a folder may keep from their making: nobody writes to an adopted file, and no other
user to its folder; no set-user-ID."""


def settle(folder: Path) -> None:
    """Make a finished folder's files read-only, and remove its empty folders, before it is hashed.

    Raises:
        OSError: It cannot be read, or something in it was exchanged meanwhile.
    """
    with opened_folder(folder) as descriptor:
        tree = list_tree(descriptor)
        for path in sorted(tree.folders, key=len, reverse=True):
            try:
                os.rmdir(path, dir_fd=descriptor)
            except OSError:
                mode = os.stat(path, dir_fd=descriptor, follow_symlinks=False).st_mode
                os.chmod(path, mode & FOLDER_BITS | stat.S_IRWXU, dir_fd=descriptor)
        for path, about in tree.files.items():
            os.chmod(path, about.st_mode & READ_BITS | stat.S_IRUSR, dir_fd=descriptor)
    folder.chmod(folder.lstat().st_mode & FOLDER_BITS | stat.S_IRWXU)


def publish(staged: Entry, entry: Entry) -> None:
    """Sync a staged entry and rename it into place, from where on the artifact exists; a damaged one makes way.

    A process that is killed between the two renames leaves no artifact, and the damaged one for `clean` to remove.
    """
    sync(staged.folder)
    gone = move_away(entry) if os.path.lexists(entry.folder) else None
    staged.folder.rename(entry.folder)
    sync_one(entry.root / entry.line)
    if gone is not None:
        remove(gone)


def move_away(entry: Entry) -> Path:
    """Rename an artifact out of its place, so that it is there whole or not at all; return where it is."""
    gone = entry.root / entry.line / STAGING / f"gone-{entry.digest}"
    gone.parent.mkdir(exist_ok=True)
    remove(gone)
    entry.folder.rename(gone)
    return gone


def remove(path: Path) -> None:
    """Remove a folder with its content, or whatever is in its place; nothing behind a link is touched."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_of(folder: Path) -> int:
    """Return the bytes of a folder's files; 0 for what is no folder."""
    try:
        with opened_folder(folder.parent, folder.name) as descriptor:
            return sum(about.st_size for about in list_tree(descriptor).files.values())
    except OSError:
        return 0


def require_real(root: Path, *names: str) -> None:
    """Make sure that folders below the store's root are folders, and not links to elsewhere.

    Raises:
        ArtifactDamaged: One is not.
    """
    folder = root
    for name in names:
        folder = folder / name
        if os.path.lexists(folder) and not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise ArtifactDamaged(
                f"{name} in the store is no folder.",
                "Find out who put it there, and remove it. Set WEIGHBRIDGE_HOME to keep the store on another disk.",
                where=str(folder),
            )
