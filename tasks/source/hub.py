"""Pin a release: resolve a line's repository and branch to one commit and the files that serving needs.

After `pin` only the commit is used, so the admitted release is the downloaded one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from tasks.source.answers import ListedFile, ask_model
from tasks.source.client import Hub
from tasks.source.licences import licence_flaws, licence_of
from tasks.source.small_files import CONFIG, git_oid, read_small_files
from tasks.source.source_file import SourceFile
from weighbridge.errors import SourceUnreachable
from weighbridge.line import Line

if TYPE_CHECKING:
    from registry.installation import Installation

__all__ = ["CONFIG", "INDEX", "Source", "SourceFile", "git_oid", "pin", "pin_repository"]

INDEX = "model.safetensors.index.json"
# The names that transformers writes and reads. Publishers add copies of the same weights under other names
# (consolidated.safetensors, original/…), which would double the download.
STANDARD_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
# Exactly these letters: only files so named are checked before the release is admitted.
# Everything else, above all code, pickles and archives of arrays, is listed as not adopted and never fetched.
NEEDED = re.compile(
    r"config\.json|generation_config\.json|model\.safetensors\.index\.json|tokenizer(_config)?\.json|tekken\.json"
    r"|vocab\.(json|txt|bpe)|merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template\.(jinja|json)"
    r"|(tokenizer|spiece|spm|sentencepiece(\.bpe)?|vocab)\.model(\.v\d+)?"
    r"|(?i:(LICEN[CS]E|NOTICE|USE_POLICY)([_-][A-Z0-9-]+)*(\.\d+)*(\.(txt|md|rst))?|README\.md)"
)


class Source(BaseModel):
    """A pinned release."""

    model_config = ConfigDict(frozen=True)

    repo: str
    commit: str
    """40 hex digits."""
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
    def short(self) -> str:
        """Repository and commit, for a person."""
        return f"{self.repo}@{self.commit[:12]}"


def pin(installation: Installation, line: Line, revision: str | None = None) -> Source:
    """Resolve a line's source to one commit.

    Args:
        installation: names the Hub.
        line: names the repository and the branch to follow.
        revision: a branch, tag or commit instead of the line's.

    Raises:
        SourceUnknown, SourceUnreachable, SourceDamaged: as `pin_repository`.
    """
    return pin_repository(Hub.of(installation.settings), line.repo, revision or line.revision)


def pin_repository(hub: Hub, repo: str, revision: str) -> Source:
    """Resolve a repository to one commit.

    Args:
        hub: the Hub with the repository.
        repo: `org/model`.
        revision: a branch, tag or commit.

    Raises:
        SourceUnknown: no such repository or revision, or no right to read it.
        SourceUnreachable: the Hub did not answer.
        SourceDamaged: a small file does not match its hash.
    """
    info = ask_model(hub, repo, revision, files=True)
    if info.sha is None:
        raise SourceUnreachable(
            f"The Hub named no commit for {repo} at {revision!r}.", "Correct HF_ENDPOINT, or unset it.", hub.endpoint
        )
    files = tuple(_file(hub, listed) for listed in info.files)
    small = read_small_files(hub, repo, info.sha, files)
    needed = _needed([file.path for file in files])
    return Source(
        repo=repo,
        commit=info.sha,
        licence=licence_of(small.card),
        gated=bool(info.gated),
        config=small.config,
        files=tuple(file for file in files if file.path in needed),
        ignored=tuple(file.path for file in files if file.path not in needed),
        flaws=(*small.flaws, *licence_flaws(small.card, info.card, info.licence_tag)),
    )


def _file(hub: Hub, listed: ListedFile) -> SourceFile:
    size = listed.lfs.size if listed.lfs else listed.size
    if size is None:
        raise hub.invalid_answer(f"it gives no size of {listed.path[:200]!r}")
    return SourceFile(
        path=listed.path,
        size_bytes=size,
        sha256=listed.lfs.sha256 if listed.lfs else None,
        git_oid=listed.blob_id,
    )


def _needed(paths: list[str]) -> set[str]:
    """The paths that serving needs: weights, under standard names if there are any, and the files for loading them."""
    weights = {path for path in paths if path.endswith(".safetensors") and "/" not in path}
    weights = {path for path in weights if STANDARD_WEIGHTS.fullmatch(path)} or weights
    return weights | {path for path in paths if NEEDED.fullmatch(path)}
