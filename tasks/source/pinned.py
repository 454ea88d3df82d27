"""A pinned release: one commit, and the files of it that serving needs.

After a source is pinned only the commit is used, so the admitted release is the downloaded one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.source.source_file import SourceFile
from weighbridge.source_urls import uri_of

INDEX = "model.safetensors.index.json"
# The names that transformers writes and reads. Publishers add copies of the same weights under other names
# (consolidated.safetensors, original/…), which would double the download.
STANDARD_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
DOCUMENT = re.compile(r"(?i:(LICEN[CS]E|NOTICE|USE_POLICY)([_-][A-Z0-9-]+)*(\.\d+)*(\.(txt|md|rst))?|README\.md)")
"""Files for people. They are adopted, and change nothing about what a model answers."""
# Exactly these letters: only files so named are checked before the release is admitted.
# Everything else, above all code, pickles and archives of arrays, is listed as not adopted and never fetched.
NEEDED = re.compile(
    r"config\.json|generation_config\.json|model\.safetensors\.index\.json|tokenizer(_config)?\.json|tekken\.json"
    r"|vocab\.(json|txt|bpe)|merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template\.(jinja|json)"
    r"|(tokenizer|spiece|spm|sentencepiece(\.bpe)?|vocab)\.model(\.v\d+)?"
    rf"|{DOCUMENT.pattern}"
)


class Source(BaseModel):
    """A pinned release."""

    model_config = ConfigDict(frozen=True)

    repo: str
    """`org/model` on the Hub; elsewhere the source's address, such as `file:///models/mine`."""
    commit: str
    """40 hex digits on the Hub, 64 elsewhere: the digest of the files. Empty in an outline, which reads no weights."""
    licence: str | None
    """As in the model card, joined by ` and `; for `other`, the card's `license_name`."""
    gated: bool
    config: dict[str, Any]
    """config.json at the commit; empty if the commit has none."""
    files: tuple[SourceFile, ...]
    """The files that serving needs."""
    ignored: tuple[str, ...]
    """All other files of the repository, which are never downloaded."""
    flaws: tuple[str, ...] = ()
    """Why the release cannot be admitted whatever the line's rules say, a phrase each, by its small files."""

    @property
    def size_bytes(self) -> int:
        """Bytes to download."""
        return sum(file.size_bytes for file in self.files)

    @property
    def content(self) -> str:
        """Digest of the files that decide what the model answers: all that are adopted, documents excepted."""
        files = [file for file in self.files if not DOCUMENT.fullmatch(file.path)]
        listed = sorted([file.path, file.size_bytes, file.sha256 or file.git_oid or ""] for file in files)
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    @property
    def uri(self) -> str:
        """Address and commit, as MLflow and the store record them."""
        return uri_of(self.repo, self.commit)

    @property
    def short(self) -> str:
        """Repository and commit, for a person."""
        return f"{self.repo}@{self.commit[:12]}" if self.commit else self.repo


def needed_files(paths: Iterable[str]) -> set[str]:
    """Return the paths that serving needs: weights, under standard names if there are any, and what loads them."""
    paths = list(paths)
    weights = {path for path in paths if path.endswith(".safetensors") and "/" not in path}
    weights = {path for path in weights if STANDARD_WEIGHTS.fullmatch(path)} or weights
    return weights | {path for path in paths if NEEDED.fullmatch(path)}
