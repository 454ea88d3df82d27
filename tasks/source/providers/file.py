"""`file:///folder`: a model in a folder of this machine, such as the result of a fine-tuning.

Only regular files of the folder itself are adopted. Names are opened one by one below the folder: a link to another
file of the same folder is read as that file, one that leads elsewhere is refused with everything else that is no
regular file. Folders below it and hidden files are never read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes

from registry.store.tree import kind_of, open_file, opened_folder, require_resources
from tasks.source.providers._by_content import MAX_FILES, ByContent, Listed, Listing
from tasks.source.providers._hashes import Stamp
from tasks.source.small_files import CONFIG
from weighbridge.errors import SourceUnknown, SourceUnreachable
from weighbridge.settings import Settings
from weighbridge.source_urls import folder_url

READ_BYTES = 4 * 2**20


def canonical(url: str) -> str:
    """Return the one form of an address: absolute, without `..`, odd characters as %XX.

    Raises:
        ValueError: It names no absolute folder of this machine.
    """
    rest = url.removeprefix("file://")
    if rest.startswith("localhost/"):
        rest = rest.removeprefix("localhost")
    if rest.startswith(("~", "/~")):
        raise ValueError(
            f"must read file:///folder, and `~` is not expanded there: write {folder_url(rest.lstrip('/'))}"
        )
    if not rest.startswith("/"):
        # Two slashes are a slash too few, or begin a relative path; the folder that is there was meant.
        meant = f"/{rest}" if rest and Path(f"/{rest}").is_dir() else rest or "."
        raise ValueError(f"must read file:///folder with the whole path: write {folder_url(meant)}")
    path = os.fsdecode(unquote_to_bytes(rest))
    if "\0" in path:
        raise ValueError("must read file:///folder; this one has a NUL in it")
    plain = Path("/" + os.path.normpath(path).lstrip("/"))
    if plain == Path("/"):
        raise ValueError("must read file:///folder, and not the root of the disk")
    return plain.as_uri()


def folder_of(repo: str) -> Path:
    """Return the folder of an address."""
    return Path(os.fsdecode(unquote_to_bytes(repo.removeprefix("file://"))))


class Provider(ByContent):
    """A folder.

    Args:
        settings: Of the installation.
        repo: Its address.
    """

    def __init__(self, settings: Settings, repo: str) -> None:
        super().__init__(settings, repo)
        self._folder = folder_of(repo)

    @property
    def versions(self) -> Mapping[str, str]:
        """No library but Python's own reads it."""
        return {}

    def contents(self) -> Listing:
        """List the folder, opening no file.

        Raises:
            SourceUnknown: There is no such folder, or it cannot be read.
        """
        files: dict[str, Listed] = {}
        others, flaws = list[str](), list[str]()
        try:
            with opened_folder(self._folder) as descriptor, os.scandir(descriptor) as entries:
                for count, entry in enumerate(entries):
                    if count >= MAX_FILES:
                        raise self.too_many()
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(about.st_mode):
                        others.append(f"{_as_text(entry.name)}/")
                    elif entry.name.startswith("."):
                        others.append(_as_text(entry.name))
                    elif found := self._regular(entry.name, about):
                        files[entry.name] = found
                    else:
                        others.append(_as_text(entry.name))
                        flaws.append(_flaw(entry.name, kind_of(about)))
        except OSError as error:
            require_resources(error)
            raise self._unreadable(error) from None
        return Listing(files, tuple(others), tuple(sorted(flaws)))

    def blocks(self, path: str, first_byte: int, limit_bytes: int) -> Iterator[bytes]:
        """Read a file from a byte on, at most so many bytes.

        Raises:
            SourceChanged: It is gone, or is no regular file any more.
            SourceUnreachable: It cannot be read.
        """
        try:
            with opened_folder(self._folder) as descriptor, open_file(descriptor, self._target(path)) as file:
                file.seek(first_byte)
                while limit_bytes > 0 and (block := file.read(min(READ_BYTES, limit_bytes))):
                    limit_bytes -= len(block)
                    yield block
        except OSError as error:
            require_resources(error)
            if error.errno is None or isinstance(error, FileNotFoundError | NotADirectoryError):
                raise self.changed(path, "it is gone, or is no regular file any more") from None
            raise SourceUnreachable(
                f"{path} of {self._repo} cannot be read: {error.strerror}.",
                "Let the user that runs Weighbridge read it, or repair the disk, then run the command again.",
                where=str(self._folder / path),
            ) from None

    def holds_model(self, name: str) -> bool:
        """Whether a folder below this one holds a model."""
        return (self._folder / name / CONFIG).is_file()

    def _regular(self, name: str, about: os.stat_result) -> Listed | None:
        """Describe a regular file, or a link to one of this folder; None for anything else."""
        if stat.S_ISLNK(about.st_mode):
            try:
                with opened_folder(self._folder) as descriptor, open_file(descriptor, self._target(name)) as file:
                    about = os.fstat(file.fileno())
            except OSError as error:
                require_resources(error)
                return None
        if not stat.S_ISREG(about.st_mode):
            return None
        written_at = max(about.st_mtime_ns, about.st_ctime_ns)
        key = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        return Listed(about.st_size, Stamp(key=key, written_at=written_at / 1e9))

    def _target(self, name: str) -> str:
        """Path below the folder of what a name stands for.

        Raises:
            OSError: It is a link that leads out of the folder.
        """
        if not (self._folder / name).is_symlink():
            return name
        try:
            return (self._folder / name).resolve().relative_to(self._folder.resolve()).as_posix()
        except (ValueError, RuntimeError):
            raise OSError(f"{name} is a link that leads out of the folder") from None

    def _unreadable(self, error: OSError) -> SourceUnknown:
        if isinstance(error, FileNotFoundError):
            what, next_step = "There is no folder", "Check the path, and that its disk is mounted"
        elif isinstance(error, NotADirectoryError):
            what, next_step = "There is no folder, but a file, at", "Name the folder of the model"
        else:
            what, next_step = f"{error.strerror}:", "Let the user that runs Weighbridge read the folder"
        return SourceUnknown(f"{what} {self._folder}.", f"{next_step}, then run the command again.", where=self._repo)


def _flaw(name: str, kind: str) -> str:
    if kind == "link":
        return (
            f"{_as_text(name)} is a link that leads out of the folder or nowhere (`cp -rL` copies what links lead to)"
        )
    return f"{_as_text(name)} is a {kind} and no regular file"


def _as_text(name: str) -> str:
    """Return a name that may go into records; bytes that are no text are escaped."""
    return name if name.isprintable() else ascii(name)
