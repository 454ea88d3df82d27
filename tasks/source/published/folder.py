"""The published files of a folder, found by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.source.published.config import MAX_BYTES, read_config
from tasks.source.published.fields import refused
from tasks.source.published.tokenizer import (
    MAX_SMALL_BYTES,
    MAX_TOKENIZER_BYTES,
    chat_templates,
    read_generation_config,
    read_special_tokens,
    read_template_file,
    read_tokenizer,
    read_tokenizer_config,
)
from weighbridge.documents import read_bytes
from weighbridge.errors import DocumentInvalid

READERS: dict[str, tuple[Callable[[bytes, str], dict[str, Any]], int]] = {
    "config.json": (read_config, MAX_BYTES),
    "tokenizer_config.json": (read_tokenizer_config, MAX_SMALL_BYTES),
    "special_tokens_map.json": (read_special_tokens, MAX_SMALL_BYTES),
    "generation_config.json": (read_generation_config, MAX_SMALL_BYTES),
    "chat_template.json": (read_template_file, MAX_SMALL_BYTES),
    "tokenizer.json": (read_tokenizer, MAX_TOKENIZER_BYTES),
}
TEMPLATE_FILES = ("tokenizer_config.json", "chat_template.json", "chat_template.jinja")


def read_from(folder: Path, name: str) -> dict[str, Any]:
    """Read one of the known JSON files of a folder; empty if it is not there.

    Raises:
        SourceRefused: it cannot be read, or is not valid.
    """
    reader, max_bytes = READERS[name]
    return reader(_content(folder / name, max_bytes), name) if (folder / name).is_file() else {}


def templates_of(folder: Path) -> dict[str, str]:
    """Read the chat templates of a folder, by name.

    Raises:
        SourceRefused: one of the files cannot be read, or is not valid.
    """
    contents = {name: _content(folder / name, MAX_SMALL_BYTES) for name in TEMPLATE_FILES if (folder / name).is_file()}
    return chat_templates(contents, folder.name)


def _content(path: Path, max_bytes: int) -> bytes:
    try:
        return read_bytes(path, max_bytes)
    except DocumentInvalid as error:
        raise refused(path.name, error.what.removesuffix(".").replace("The file", "it", 1)) from None
