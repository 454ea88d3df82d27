"""Check whether a folder holds exactly the files of a manifest, each file hashed once a process.

A file that this process hashed is not hashed again while its device, inode, size, mtime and ctime are the same. Linux
sets the ctime at every write call, rename of another file over it, change of mode and change of mtime, and only root
can set it back, by the clock. A file whose ctime is younger than `SETTLED_SECONDS` is hashed again, because two writes
within one tick of the clock have the same ctime.

What an attacker with the installation's own uid can still do: change bytes between this check and the read that
follows it (`Store.reading` checks again afterwards), or through a writable mapping of memory, where only the first
write to a page sets the ctime; change this process's memory, or change our code. They hold the signing key too, unless
it is kept elsewhere. `Store.verify` and an engine's start read every byte again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from registry.store.artifact import FileEntry, files_of
from registry.store.tree import list_tree, open_file, opened_folder, parents_of, require_resources, shown

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes in all."""

HASHERS = 4
"""Files that are hashed at once; hashlib releases the interpreter lock meanwhile."""
SETTLED_SECONDS = 2.0
"""Longest tick of a file system's clock, or of its difference from ours."""
CHANGING = ""
"""In place of the hash of a file that changed while it was hashed."""


class Stamp(NamedTuple):
    """What tells whether a file may have changed, without reading it."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, about: os.stat_result) -> Stamp:
        """Stamp of a file."""
        return cls(about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


def stamps_of(folder: Path) -> dict[str, Stamp]:
    """Return the stamp of every file below a folder, links followed, by path."""
    return {path.relative_to(folder).as_posix(): Stamp.of(path.stat()) for path in files_of(folder)}


_hashed: dict[tuple[int, int], tuple[Stamp, str]] = {}
"""Stamp and SHA-256 by device and inode, of every file that this process hashed. A rename changes neither."""


def hash_file(folder: int, path: str, *, reread: bool = False) -> FileEntry:
    """Describe a file below an open folder.

    Args:
        folder: Descriptor.
        path: Of the file, below it.
        reread: Whether to read it even if this process read it before.

    Returns:
        Its entry; the hash is `CHANGING` if somebody wrote to it meanwhile.

    Raises:
        OSError: It is missing, is no regular file, or cannot be read.
    """
    with open_file(folder, path) as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        known = _hashed.get(stamp[:2])
        if known and known[0] == stamp and not reread:
            return FileEntry(path=path, size_bytes=stamp.size_bytes, sha256=known[1])
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if Stamp.of(os.fstat(file.fileno())) != stamp:
            return FileEntry(path=path, size_bytes=stamp.size_bytes, sha256=CHANGING)
        if time.time_ns() - stamp.changed_ns > SETTLED_SECONDS * 1e9:
            _hashed[stamp[:2]] = stamp, sha256
        return FileEntry(path=path, size_bytes=stamp.size_bytes, sha256=sha256)


def wrong_files(
    folder: int, files: tuple[FileEntry, ...], progress: Progress | None = None, *, reread: bool = False
) -> list[str]:
    """List what is missing, added or altered below a folder, and what is no file: a link's target may change later.

    Args:
        folder: Descriptor of the folder to check.
        files: Files that it must hold, and no others.
        progress: Called after each file.
        reread: Whether to read files that this process read before.
    """
    expected = {entry.path for entry in files}
    folders = {parent for path in expected for parent in parents_of(path)}
    tree = list_tree(folder)
    wrong = [f"{shown(path)} (a {kind})" for path, kind in tree.other.items()]
    wrong += [f"{shown(path)} (a folder)" for path in tree.folders - folders]
    wrong += [
        shown(path) for path in expected ^ tree.files.keys() if path not in tree.other and path not in tree.folders
    ]
    if wrong:
        return sorted(wrong)
    done, total = 0, sum(entry.size_bytes for entry in files)
    with ThreadPoolExecutor(HASHERS) as pool:
        found = pool.map(lambda entry: _found(folder, entry.path, reread), files)
        for entry, actual in zip(files, found, strict=True):
            done += entry.size_bytes
            if progress:
                progress(done, total)
            if actual != entry:
                wrong.append(entry.path)
    return wrong


def _found(folder: int, path: str, reread: bool) -> FileEntry | None:
    try:
        return hash_file(folder, path, reread=reread)
    except OSError as error:
        require_resources(error)
        return None


def entries_of(folder: Path) -> tuple[FileEntry, ...]:
    """List a folder's files in the order of their paths, each hashed.

    Raises:
        ValueError: It holds something that is neither a file nor a folder, or that changes; it is named.
    """
    with opened_folder(folder) as descriptor:
        tree = list_tree(descriptor)
        if tree.other:
            path, kind = min(tree.other.items())
            raise ValueError(f"{path} is a {kind}")
        entries = tuple(hash_file(descriptor, path) for path in sorted(tree.files))
    if changing := [entry.path for entry in entries if entry.sha256 == CHANGING]:
        raise ValueError(f"{changing[0]} was altered while it was hashed")
    return entries
