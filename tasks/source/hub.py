"""Pin a release: resolve a line's repository and branch to one commit and the files that serving needs.

After `pin` only the commit is used, so the admitted release is the downloaded one.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from tasks.source.client import TIMEOUT_SECONDS, Hub
from weighbridge.errors import SourceDamaged, SourceUnreachable
from weighbridge.line import Line

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

    from registry.installation import Installation

CONFIG = "config.json"
MAX_CONFIG_BYTES = 16 * 2**20
"""config.json is read into memory before the release is admitted; real ones are kilobytes."""
INDEX = "model.safetensors.index.json"
# The names that transformers writes and reads. Publishers add copies of the same weights under other names
# (consolidated.safetensors, original/…), which would double the download.
STANDARD_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
NEEDED = re.compile(
    r"config\.json|generation_config\.json|model\.safetensors\.index\.json|tokenizer[\w.-]*|vocab[\w.-]*|merges\.txt"
    r"|special_tokens_map\.json|added_tokens\.json|chat_template[\w.-]*|[\w.-]+\.model|LICEN[CS]E[\w.-]*|README\.md",
    re.IGNORECASE,
)
# Code and pickles are never fetched, even under one of the names above.
NEVER = re.compile(r".*\.(py|pyc|so|bin|pt|pth|pkl|ckpt|h5|msgpack|gguf|onnx)", re.IGNORECASE)


class SourceFile(BaseModel):
    """One file of a release, with its expected size and hash."""

    model_config = ConfigDict(frozen=True)

    path: str
    size_bytes: int
    sha256: str | None = None
    """Of a large (LFS) file."""
    git_oid: str | None = None
    """Git's blob id: SHA-1 over `blob <size>\\0` and the bytes; for a large file, of its pointer."""

    @property
    def is_weights(self) -> bool:
        """Whether it holds tensors."""
        return self.path.endswith(".safetensors")


class Source(BaseModel):
    """A pinned release."""

    model_config = ConfigDict(frozen=True)

    repo: str
    commit: str
    """40 hex digits."""
    licence: str | None
    """As in the model card; for `other`, the card's `license_name`."""
    gated: bool
    config: dict[str, Any]
    """config.json at the commit; empty if the commit has none."""
    files: tuple[SourceFile, ...]
    """The files that serving needs."""
    ignored: tuple[str, ...]
    """All other files of the repository, which are never downloaded."""

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
        SourceDamaged: config.json does not match its hash, or is too large.
    """
    api = hub.api

    def describe() -> ModelInfo:
        try:
            return api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        except (json.JSONDecodeError, KeyError, TypeError):
            raise hub.invalid_answer() from None

    info = hub.call(describe, repo=repo, revision=revision)
    commit = info.sha
    if commit is None or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise SourceUnreachable(
            f"The Hub named no commit for {repo} at {revision!r}.", "Correct HF_ENDPOINT, or unset it.", hub.endpoint
        )
    files = tuple(_file(sibling) for sibling in info.siblings or [])
    needed = _needed([file.path for file in files])
    return Source(
        repo=repo,
        commit=commit,
        licence=_licence(info),
        gated=bool(info.gated),
        config=_config(hub, repo, commit, files),
        files=tuple(file for file in files if file.path in needed),
        ignored=tuple(file.path for file in files if file.path not in needed),
    )


def _file(sibling: Any) -> SourceFile:
    lfs = sibling.lfs
    size = lfs.size if lfs else sibling.size
    return SourceFile(
        path=sibling.rfilename, size_bytes=size or 0, sha256=lfs.sha256 if lfs else None, git_oid=sibling.blob_id
    )


def _needed(paths: list[str]) -> set[str]:
    """The paths that serving needs: weights, under standard names if there are any, and the files for loading them."""
    weights = {path for path in paths if path.endswith(".safetensors") and "/" not in path}
    weights = {path for path in weights if STANDARD_WEIGHTS.fullmatch(path)} or weights
    others = {path for path in paths if NEEDED.fullmatch(path) and not NEVER.fullmatch(path)}
    return weights | others


def _licence(info: ModelInfo) -> str | None:
    card = info.card_data.to_dict() if info.card_data else {}
    licence = card.get("license")
    if licence == "other":
        licence = card.get("license_name") or licence
    if isinstance(licence, list):
        licence = " and ".join(str(name) for name in licence)
    if not licence:
        tagged = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
        licence = tagged[0] if tagged else None
    return str(licence) if licence else None


def _config(hub: Hub, repo: str, commit: str, files: tuple[SourceFile, ...]) -> dict[str, Any]:
    """config.json at the commit, checked against its blob id."""
    file = next((file for file in files if file.path == CONFIG), None)
    if file is None:
        return {}
    if file.size_bytes > MAX_CONFIG_BYTES:
        raise SourceDamaged(
            f"{CONFIG} of {repo} at {commit[:12]} is {file.size_bytes / 1e6:.0f} MB, too large for a configuration.",
            "Choose another release.",
            where=hub.endpoint,
        )
    content = hub.call(lambda: _read(hub, repo, commit, CONFIG, file.size_bytes), repo=repo, revision=commit)
    known = {file.sha256, file.git_oid}
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or not known & {hashlib.sha256(content).hexdigest(), git_oid(content)}:
        raise SourceDamaged(
            f"{CONFIG} of {repo} at {commit[:12]} does not match the Hub's hash, or is not a JSON object.",
            "Try again; if the error persists, tell the repository's publisher.",
            where=hub.endpoint,
        )
    return config


def _read(hub: Hub, repo: str, commit: str, path: str, limit_bytes: int) -> bytes:
    """Read a small file; stop after `limit_bytes`, so that a longer file fails its hash check."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url, headers, content = hub.file_url(repo, path, commit), build_hf_headers(), b""
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True) as answer:
        if answer.is_error:
            answer.read()
        hf_raise_for_status(answer)
        for block in answer.iter_bytes():
            content += block
            if len(content) > limit_bytes:
                break
    return content


def git_oid(content: bytes) -> str:
    """Git's blob id of some bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
