"""A folder's files, listed and opened below a root without following a link and without waiting on a pipe.

Each name of a path is opened by itself, relative to the folder before it, so that no link in the middle leads
elsewhere, and nothing can be exchanged between a check by name and the use of the same name.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import BufferedReader

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Without O_NONBLOCK the opening of a pipe waits for a writer."""
KINDS = {stat.S_IFLNK: "link", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFDIR: "folder"}
SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say something about this process or machine, and nothing about the file."""
UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that a terminal may obey instead of showing."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What a folder holds, at any depth. Paths are relative to it."""

    files: dict[str, os.stat_result] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    other: dict[str, str] = field(default_factory=dict)
    """Kind by path, of whatever is neither a file nor a folder: link, pipe, socket, device."""


@contextmanager
def opened_folder(root: Path | int, *names: str) -> Iterator[int]:
    """Open a folder below a root, and yield its descriptor.

    Args:
        root: The path of a folder, which may be a link, or the descriptor of one.
        names: Names that lead down to the folder. None may be a link.

    Raises:
        OSError: One of them is missing, is a link, or is no folder.
    """
    descriptor = os.dup(root) if isinstance(root, int) else os.open(root, FOLDER & ~os.O_NOFOLLOW)
    try:
        for name in names:
            inner = os.open(name, FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(folder: int, path: str) -> BufferedReader:
    """Open a regular file below an open folder.

    Raises:
        OSError: It is missing, is no regular file, or a folder on its path is a link.
    """
    *parents, name = path.split("/")
    with opened_folder(folder, *parents) as parent:
        file = os.fdopen(os.open(name, FILE, dir_fd=parent), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is no regular file")
    return file


def list_tree(folder: int) -> Tree:
    """List everything below an open folder.

    Raises:
        OSError: A folder cannot be read, or was exchanged meanwhile.
    """
    tree, left = Tree(), [""]
    while left:
        parent = left.pop()
        with opened_folder(folder, *parent.split("/") if parent else ()) as descriptor, os.scandir(descriptor) as found:
            for entry in found:
                path = f"{parent}/{entry.name}" if parent else entry.name
                about = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(about.st_mode):
                    tree.files[path] = about
                elif stat.S_ISDIR(about.st_mode):
                    tree.folders.add(path)
                    left.append(path)
                else:
                    tree.other[path] = kind_of(about)
    return tree


def require_resources(error: OSError) -> None:
    """Raise an error again that came from a lack of descriptors or memory: it proves no damage.

    Raises:
        OSError: It did.
    """
    if error.errno in SCARCE:
        raise error


def kind_of(about: os.stat_result) -> str:
    """Return what something is that is no regular file: link, pipe, socket, folder or device."""
    return KINDS.get(stat.S_IFMT(about.st_mode), "device")


def is_safe_path(path: str) -> bool:
    """Return whether a file's path stays inside its folder, and shows on a terminal as what it is."""
    return (
        not {"", ".", ".."} & set(path.split("/"))
        and "\\" not in path
        and not any(unicodedata.category(character) in UNPRINTABLE for character in path)
    )


def shown(path: str) -> str:
    """Return a path as it may be shown: one that a terminal may obey is escaped."""
    return path if is_safe_path(path) else ascii(path)


def parents_of(path: str) -> Iterator[str]:
    """Iterate over the folders that a path leads through."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
