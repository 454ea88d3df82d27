"""Check whether a folder holds exactly the files of a manifest."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from registry.store.artifact import FileEntry, files_of, sha256_of

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes in all."""

HASHERS = 4
"""Files that are hashed at once; hashlib releases the interpreter lock meanwhile."""


def wrong_files(folder: Path, files: tuple[FileEntry, ...], progress: Progress | None = None) -> list[str]:
    """List paths that are missing, added or altered, and links, whose target may change later.

    Args:
        folder: Folder to check.
        files: Files that it must hold.
        progress: Called after each file.
    """
    links = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()}
    present = {path.relative_to(folder).as_posix() for path in files_of(folder)}
    if wrong := sorted({entry.path for entry in files} ^ present | links):
        return wrong
    done, total = 0, sum(entry.size_bytes for entry in files)
    with ThreadPoolExecutor(HASHERS) as pool:
        for entry, sha256 in zip(files, pool.map(lambda entry: sha256_of(folder / entry.path), files)):
            done += entry.size_bytes
            if progress:
                progress(done, total)
            if sha256 != entry.sha256:
                wrong.append(entry.path)
    return wrong
