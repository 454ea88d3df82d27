"""Whether a folder holds the files of a manifest, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from registry.store.artifact import FileEntry, files_of, sha256_of

Progress = Callable[[int, int], None]

HASHERS = 4
"""Files that are hashed at once; hashlib lets go of the interpreter meanwhile."""


def wrong_files(folder: Path, files: tuple[FileEntry, ...], progress: Progress | None = None) -> list[str]:
    """Paths that are missing, added, altered, or links, which may lead to right bytes today and to others tomorrow.

    Args:
        folder: what is there.
        files: what shall be there.
        progress: told (bytes hashed, bytes in all) after each file.
    """
    links = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()}
    present = {path.relative_to(folder).as_posix() for path in files_of(folder)}
    if wrong := sorted({entry.path for entry in files} ^ present | links):
        return wrong
    done, total = 0, sum(entry.size_bytes for entry in files)
    with ThreadPoolExecutor(HASHERS) as pool:
        for entry, sha256 in zip(files, pool.map(lambda one: sha256_of(folder / one.path), files)):
            done += entry.size_bytes
            if progress:
                progress(done, total)
            if sha256 != entry.sha256:
                wrong.append(entry.path)
    return wrong
