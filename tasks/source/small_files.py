"""What a release's small files say, read and tried before the release is admitted: config, card, templates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.source import answers, published
from tasks.source.chat_templates import MAX_TEMPLATE_BYTES, template_flaws
from weighbridge.errors import SourceDamaged, SourceRefused

if TYPE_CHECKING:
    from tasks.source.client import Hub
    from tasks.source.source_file import SourceFile

CONFIG = "config.json"
CARD = "README.md"
MIB = 2**20
LIMITS = {
    CONFIG: 16 * MIB,
    "tokenizer_config.json": 16 * MIB,
    "special_tokens_map.json": MIB,
    "generation_config.json": MIB,
    "chat_template.json": 2 * MAX_TEMPLATE_BYTES,
    "chat_template.jinja": MAX_TEMPLATE_BYTES,
    CARD: 4 * MIB,
}
"""Largest size of each file; some ten times the largest known ones."""
READERS: dict[str, Callable[[bytes, str], dict[str, Any]]] = {
    "tokenizer_config.json": published.read_tokenizer_config,
    "special_tokens_map.json": published.read_special_tokens,
    "generation_config.json": published.read_generation_config,
    "chat_template.json": published.read_template_file,
}
CODE_FIELDS = ("auto_map", "custom_pipelines")
"""Fields by which transformers loads classes from the repository."""


class SmallFiles(NamedTuple):
    """What the small files say, and what is wrong with them."""

    config: dict[str, Any]
    card: published.Card
    flaws: tuple[str, ...]


def read_small_files(of: str, files: Sequence[SourceFile], fetch: Callable[[SourceFile], bytes]) -> SmallFiles:
    """Fetch, check and try the small files of a release.

    Args:
        of: The release, for messages.
        files: Its files.
        fetch: Returns a file's bytes, checked against its hash; what it raises is raised here.
    """
    listed = [file for file in files if file.path in LIMITS]
    flaws = [
        f"{file.path} has {file.size_bytes:,} bytes, more than {LIMITS[file.path]:,}"
        for file in listed
        if file.size_bytes > LIMITS[file.path]
    ]
    contents = {file.path: fetch(file) for file in listed if file.size_bytes <= LIMITS[file.path]}
    read: dict[str, dict[str, Any]] = {}
    for path, reader in {CONFIG: published.read_config, **READERS}.items():
        if path in contents:
            try:
                read[path] = reader(contents[path], path)
            except SourceRefused as error:
                flaws.append(error.what.removesuffix("."))
                del contents[path]
    flaws += [flaw for path, found in read.items() for flaw in _code(path, found)]
    flaws += _template_flaws(contents, read.get("tokenizer_config.json", {}), of)
    card = published.read_card(contents.get(CARD, b""))
    return SmallFiles(read.get(CONFIG, {}), card, tuple(flaws))


def fetch_verified(hub: Hub, repo: str, commit: str, file: SourceFile) -> bytes:
    """Fetch a small file, checked against its hash.

    Raises:
        SourceUnreachable, SourceUnknown: The Hub did not answer, or no longer has it.
        SourceDamaged: It does not match its hash.
    """
    # One byte more than announced, so that a longer file does not match.
    content = answers.read_file(hub, repo, commit, file.path, file.size_bytes + 1)
    valid = hashlib.sha256(content).hexdigest() == file.sha256 if file.sha256 else git_oid(content) == file.git_oid
    if not valid:
        raise SourceDamaged(
            f"{file.path} of {repo}@{commit[:12]} does not match the Hub's hash.",
            "Try again; if the error persists, tell the repository's publisher.",
            where=hub.endpoint,
        )
    return content


def git_oid(content: bytes) -> str:
    """Git's blob id of some bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def names_code(found: object) -> bool:
    """Whether a file, at any depth, names classes to load from the repository."""
    if isinstance(found, list):
        return any(names_code(part) for part in found)
    if not isinstance(found, dict):
        return False
    if any(found.get(name) for name in CODE_FIELDS) or found.get("trust_remote_code") not in (None, False):
        return True
    return any(names_code(part) for part in found.values())


def _code(path: str, found: Mapping[str, Any]) -> Iterator[str]:
    # That of config.json is reported by the admission rules, which see configs from elsewhere too.
    if path != CONFIG and names_code(found):
        yield f"it requires running its own code (`auto_map` in {path}), which is never done"


def _template_flaws(contents: Mapping[str, bytes], tokenizer_config: Mapping[str, Any], of: str) -> list[str]:
    try:
        templates = published.chat_templates(contents, of)
    except SourceRefused as error:
        return [error.what.removesuffix(".")]
    return template_flaws(templates, published.special_token_texts(tokenizer_config)) if templates else []
