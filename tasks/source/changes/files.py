"""Read the small files of a release, from a folder or from its source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.source.pinned import Source
from tasks.source.provider import Provider
from tasks.source.published.folder import READERS

SMALL = re.compile(
    r"(generation_)?config\.json|tokenizer(_config)?\.json|(special_tokens_map|added_tokens)\.json|vocab\.(json|txt)"
    r"|merges\.txt|[\w.-]+\.model|chat_template\.(jinja|json)|additional_chat_templates/[\w.-]+\.jinja"
    r"|README\.md|LICEN[CS]E[\w.-]*",
    re.IGNORECASE,
)
MAX_FILE_BYTES = 64 * 2**20
"""Twice the largest known file, Gemma 3's tokenizer.json of 33 MB."""


class SmallFiles(BaseModel):
    """The files of a release other than weights."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Repository and commit, or folder."""
    contents: dict[str, bytes]
    """By path."""
    unread: tuple[str, ...] = ()
    """Paths of files that were too large to read."""

    def text(self, path: str) -> str | None:
        """A file as text; None if absent."""
        content = self.contents.get(path)
        return None if content is None else content.decode(errors="replace")

    def json_of(self, path: str) -> dict[str, Any]:
        """A file's JSON object, checked; empty if the file is absent.

        Raises:
            SourceRefused: it is not valid.
        """
        reader, _ = READERS[path]
        return reader(self.contents.get(path, b"{}"), f"{path} of {self.name}")


def files_of_folder(folder: Path, name: str = "") -> SmallFiles:
    """Read the small files of a release in a folder.

    Args:
        folder: of the release.
        name: for reports; the folder's by default.

    Raises:
        OSError: it cannot be read.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    small = {path: file for path, file in paths.items() if SMALL.fullmatch(path)}
    large = {path for path, file in small.items() if file.stat().st_size > MAX_FILE_BYTES}
    return SmallFiles(
        name=name or folder.name,
        contents={path: file.read_bytes() for path, file in sorted(small.items()) if path not in large},
        unread=tuple(sorted(large)),
    )


def files_of_source(provider: Provider, source: Source) -> SmallFiles:
    """Fetch the small files of a pinned release, one request a file, each checked against its hash.

    Raises:
        SourceUnreachable, SourceUnknown: the source did not answer, or no longer has a file.
        SourceDamaged, SourceChanged: a file does not match its hash.
    """
    small = [file for file in source.files if SMALL.fullmatch(file.path)]
    read = [file for file in small if file.size_bytes <= MAX_FILE_BYTES]
    return SmallFiles(
        name=source.short,
        contents={file.path: provider.read_verified(source, file) for file in read},
        unread=tuple(file.path for file in small if file.size_bytes > MAX_FILE_BYTES),
    )
