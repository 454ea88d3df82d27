"""Digests of a model's small files: the tokenizer, chat template and configs beside the weights that change answers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from registry.store import FileEntry, digest_of, sha256_of
from tasks.evaluate.scoring.model_thoughts import thoughts_of
from tasks.source.published import read_from
from weighbridge.documents import read_utf8
from weighbridge.errors import DocumentInvalid, ModelUnreadable, SourceRefused
from weighbridge.files import write_whole

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
BOOKKEEPING_FIELDS = ("truncation", "padding", "version", "transformers_version", "_from_model_config")
"""Fields that record which program wrote a file and how it was last used, not how a text is processed."""
DIGEST_DIGITS = 16


class ModelFiles(BaseModel):
    """Digests of the files beside a model's weights; empty if unknown."""

    model_config = ConfigDict(frozen=True)

    chat_template: str = ""
    """16 hex digits of SHA-256, or `none`."""
    tokenizer: str = ""
    """16 hex digits of SHA-256."""
    generation_config: str = ""
    """16 hex digits of SHA-256, or `none`."""
    quantization: str = ""
    """Method, format and bits, or `none`."""
    thoughts: str = ""
    """Markers of its thoughts (`model_thoughts.thoughts_of`), or `none`."""


def read_model_files(folder: Path) -> ModelFiles:
    """Read the small files of a model's folder.

    Raises:
        ModelUnreadable: one of the files is not JSON.
    """
    settings = _json(folder / "tokenizer_config.json")
    return ModelFiles(
        chat_template=digest_text(template := _template(folder, settings)),
        tokenizer=_tokenizer(folder, settings),
        generation_config=_short(_json(folder / "generation_config.json"), BOOKKEEPING_FIELDS),
        quantization=_quantization(_json(folder / "config.json")),
        thoughts=thoughts_of(template, settings) if settings or template else "",
    )


def digest_text(text: str) -> str:
    """Return 16 hex digits of SHA-256 over a text; `none` for an empty one."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS] if text else "none"


def folder_digest(folder: Path, home: Path) -> str:
    """Return the content digest of a folder, 64 hex digits, equal to the store's digest of the same files.

    Hashing tens of gigabytes takes a minute, so the result is cached by the files' sizes and modification times.

    Args:
        folder: a model's files.
        home: the installation's home folder, where digests are cached.

    Raises:
        ModelUnreadable: the folder has no files.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise ModelUnreadable("The folder is empty or is not there.", "Name a model's folder.", where=str(folder))
    signature = [
        (path.relative_to(folder).as_posix(), (status := path.stat()).st_size, status.st_mtime_ns, status.st_ino)
        for path in paths
    ]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), signature]).encode()).hexdigest()
    cached = home / "scores" / "folders" / key
    if cached.is_file():
        return cached.read_text()
    # The store's own digest, so that a folder and its copy in the store share cached scores.
    digest = digest_of(
        tuple(
            FileEntry(path=name, size_bytes=size, sha256=sha256_of(path))
            for path, (name, size, *_) in zip(paths, signature)
        )
    )
    write_whole(cached, digest)
    return digest


def _template(folder: Path, settings: Any) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return read_utf8(file)
        except DocumentInvalid as error:
            raise ModelUnreadable(error.what, "Restore the model's file.", where=str(file)) from None
    template = settings.get("chat_template")
    # Several named templates form a list that includes the default one.
    return template if isinstance(template, str) else json.dumps(template) if template else ""


def _tokenizer(folder: Path, settings: Any) -> str:
    parts: list[object] = [{name: settings.get(name) for name in ("add_bos_token", "add_eos_token")}]
    for name in VOCABULARIES:
        path = folder / name
        if name == "tokenizer.json" and path.is_file():
            parts.append([name, {key: value for key, value in _json(path).items() if key not in BOOKKEEPING_FIELDS}])
        elif path.is_file():
            parts.append([name, sha256_of(path)])
        if len(parts) > 1:
            # Further files repeat the same vocabulary, and a converter may leave them out.
            break
    return _short({"parts": parts}, ()) if len(parts) > 1 else ""


def _quantization(config: Any) -> str:
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return "none" if config else ""
    weights = [group.get("weights") or {} for group in (found.get("config_groups") or {}).values()]
    bits = sorted({str(group.get("num_bits")) for group in weights}) or [str(found.get("bits", ""))]
    return " ".join(filter(None, (str(found.get("quant_method", "")), str(found.get("format", "")), "/".join(bits))))


def _short(content: Any, without: tuple[str, ...]) -> str:
    fields = {key: value for key, value in content.items() if key not in without}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:DIGEST_DIGITS] if fields else "none"


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_from(path.parent, path.name)
    except SourceRefused as error:
        raise ModelUnreadable(error.what, "Restore the model's file.", where=str(path)) from None
