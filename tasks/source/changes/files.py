"""Read the small files of a release, from a folder or from the Hub."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.source.client import TIMEOUT_SECONDS, Hub
from tasks.source.hub import Source, SourceFile
from weighbridge.errors import SourceDamaged

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
        """A file's JSON object; empty if the file is absent.

        Raises:
            SourceDamaged: it is not a JSON object.
        """
        try:
            found = json.loads(self.contents.get(path, b"{}"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise SourceDamaged(
                f"{path} of {self.name} is not a JSON object.", "Choose another release, or tell its publisher."
            )
        return found


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


def files_of_hub(hub: Hub, source: Source) -> SmallFiles:
    """Fetch the small files of a pinned release, one request a file, each checked against its hash.

    Raises:
        SourceUnreachable, SourceUnknown: the Hub did not answer, or no longer has a file.
        SourceDamaged: a file does not match its hash.
    """
    small = [file for file in source.files if SMALL.fullmatch(file.path)]
    return SmallFiles(
        name=source.short,
        contents={file.path: _fetch(hub, source, file) for file in small if file.size_bytes <= MAX_FILE_BYTES},
        unread=tuple(file.path for file in small if file.size_bytes > MAX_FILE_BYTES),
    )


def _fetch(hub: Hub, source: Source, file: SourceFile) -> bytes:
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hub.file_url(source.repo, file.path, source.commit)

    def read() -> bytes:
        answer = get_session().get(url, headers=build_hf_headers(), timeout=TIMEOUT_SECONDS, follow_redirects=True)
        hf_raise_for_status(answer)
        return bytes(answer.content)

    content = hub.call(read, repo=source.repo, revision=source.commit)
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    valid = hashlib.sha256(content).hexdigest() == file.sha256 if file.sha256 else blob == file.git_oid
    if not valid:
        raise SourceDamaged(
            f"{file.path} of {source.short} does not match the Hub's hash.",
            "Try again; if the error persists, tell the repository's publisher.",
            where=hub.endpoint,
        )
    return content
