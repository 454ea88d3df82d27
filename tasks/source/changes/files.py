"""The small files of a release, from a folder or from the Hub."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.source.client import TIMEOUT_SECONDS, call_hub
from tasks.source.hub import Source, SourceFile
from weighbridge.errors import SourceDamaged
from weighbridge.settings import load_settings

SMALL = re.compile(
    r"(generation_)?config\.json|tokenizer(_config)?\.json|(special_tokens_map|added_tokens)\.json|vocab\.(json|txt)"
    r"|merges\.txt|[\w.-]+\.model|chat_template\.(jinja|json)|additional_chat_templates/[\w.-]+\.jinja"
    r"|README\.md|LICEN[CS]E[\w.-]*",
    re.IGNORECASE,
)
LARGEST_BYTES = 64 * 2**20
"""Gemma 3's tokenizer.json, the largest known, is 33 MB."""


class SmallFiles(BaseModel):
    """What of a release is not weights."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Repository and commit, or folder."""
    contents: dict[str, bytes]
    """By path."""
    unread: tuple[str, ...] = ()
    """Too large to be read for this."""

    def text(self, path: str) -> str | None:
        """A file as text, or None."""
        content = self.contents.get(path)
        return None if content is None else content.decode(errors="replace")

    def json_of(self, path: str) -> dict[str, Any]:
        """A file's JSON object; empty where there is no such file.

        Raises:
            SourceDamaged: it is no JSON object.
        """
        try:
            found = json.loads(self.contents.get(path, b"{}"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise SourceDamaged(
                f"{path} of {self.name} is no JSON object.", "Choose another release, or tell its publisher."
            )
        return found


def files_of_folder(folder: Path, name: str = "") -> SmallFiles:
    """The small files of a release that is on this machine.

    Args:
        folder: holds them.
        name: what to call it; the folder's by default.

    Raises:
        OSError: it cannot be read.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    small = {path: file for path, file in paths.items() if SMALL.fullmatch(path)}
    large = {path for path, file in small.items() if file.stat().st_size > LARGEST_BYTES}
    return SmallFiles(
        name=name or folder.name,
        contents={path: file.read_bytes() for path, file in sorted(small.items()) if path not in large},
        unread=tuple(sorted(large)),
    )


def files_of_hub(source: Source) -> SmallFiles:
    """The small files of a pinned release, each checked against what the Hub said of it: one request a file.

    Raises:
        SourceUnreachable, SourceUnknown: the Hub did not answer, or no longer knows a file.
        SourceDamaged: a file is not what it said.
    """
    small = [file for file in source.files if SMALL.fullmatch(file.path)]
    return SmallFiles(
        name=source.short,
        contents={file.path: _fetched(source, file) for file in small if file.size_bytes <= LARGEST_BYTES},
        unread=tuple(file.path for file in small if file.size_bytes > LARGEST_BYTES),
    )


def _fetched(source: Source, file: SourceFile) -> bytes:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    endpoint = load_settings().hf_endpoint
    url = hf_hub_url(source.repo, file.path, revision=source.commit, endpoint=endpoint)

    def read() -> bytes:
        answer = get_session().get(url, headers=build_hf_headers(), timeout=TIMEOUT_SECONDS, follow_redirects=True)
        hf_raise_for_status(answer)
        return bytes(answer.content)

    content = call_hub(read, repo=source.repo, revision=source.commit)
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    right = hashlib.sha256(content).hexdigest() == file.sha256 if file.sha256 else blob == file.git_oid
    if not right:
        raise SourceDamaged(
            f"{file.path} of {source.short} is not what the Hub says it is.",
            "Try again; if it stays so, tell the repository's publisher.",
            where=endpoint,
        )
    return content
