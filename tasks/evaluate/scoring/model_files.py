"""What a model's folder says of how it is to be used: the small files beside the weights that change answers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from registry.store import FileEntry, digest_of, sha256_of
from weighbridge.errors import ModelUnreadable
from weighbridge.files import write_whole
from weighbridge.settings import load_settings

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
OF_THE_WRITER = ("truncation", "padding", "version", "transformers_version", "_from_model_config")
"""Fields that say what wrote a file and how it was last used, not what it does to a text."""
SHORT = 16


class ModelFiles(BaseModel):
    """What is known of a model beside its weights; empty where nobody could tell."""

    model_config = ConfigDict(frozen=True)

    chat_template: str = ""
    """16 hex digits, or `none`."""
    tokenizer: str = ""
    """16 hex digits."""
    generation_config: str = ""
    """16 hex digits, or `none`."""
    quantization: str = ""
    """Method and bits, or `none`."""


def read_model_files(folder: Path) -> ModelFiles:
    """Read the small files of a model's folder.

    Raises:
        ModelUnreadable: one of them is not JSON.
    """
    settings = _json(folder / "tokenizer_config.json")
    return ModelFiles(
        chat_template=_template(folder, settings),
        tokenizer=_tokenizer(folder, settings),
        generation_config=_short(_json(folder / "generation_config.json"), OF_THE_WRITER),
        quantization=_quantization(_json(folder / "config.json")),
    )


def digest_text(text: str) -> str:
    """16 hex digits of a text, as they are recorded here; `none` for no text."""
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT] if text else "none"


def folder_digest(folder: Path, home: Path | None = None) -> str:
    """SHA-256, 64 hex digits, over every file's path, size and SHA-256: the same as the store's for the same files.

    Hashing tens of gigabytes takes a minute, so the result is kept under the files' sizes and times.

    Args:
        folder: a model's files.
        home: where what was hashed is remembered; the installation's by default.

    Raises:
        ModelUnreadable: there are no files.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise ModelUnreadable("The folder is empty or is not there.", "Name a model's folder.", where=str(folder))
    seen = [
        (path.relative_to(folder).as_posix(), (status := path.stat()).st_size, status.st_mtime_ns, status.st_ino)
        for path in paths
    ]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), seen]).encode()).hexdigest()
    known = (home or load_settings().home) / "scores" / "folders" / key
    if known.is_file():
        return known.read_text()
    # As the store names it, so that a folder and its copy there share their scores.
    digest = digest_of(
        tuple(
            FileEntry(path=name, size_bytes=size, sha256=sha256_of(path)) for path, (name, size, *_) in zip(paths, seen)
        )
    )
    write_whole(known, digest)
    return digest


def _template(folder: Path, settings: Any) -> str:
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return digest_text(beside.read_text())
    template = settings.get("chat_template")
    # Several named templates are a list; the default one is among them.
    return digest_text(template if isinstance(template, str) or not template else json.dumps(template))


def _tokenizer(folder: Path, settings: Any) -> str:
    parts: list[object] = [{name: settings.get(name) for name in ("add_bos_token", "add_eos_token")}]
    for name in VOCABULARIES:
        path = folder / name
        if name == "tokenizer.json" and path.is_file():
            parts.append([name, {key: value for key, value in _json(path).items() if key not in OF_THE_WRITER}])
        elif path.is_file():
            parts.append([name, sha256_of(path)])
        if len(parts) > 1:
            # The others hold the same vocabulary once more, and a converter may leave them out.
            break
    return _short({"parts": parts}, ()) if len(parts) > 1 else ""


def _quantization(config: Any) -> str:
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return "none" if config else ""
    weights = [group.get("weights") or {} for group in (found.get("config_groups") or {}).values()]
    bits = sorted({str(one.get("num_bits")) for one in weights}) or [str(found.get("bits", ""))]
    return " ".join(filter(None, (str(found.get("quant_method", "")), str(found.get("format", "")), "/".join(bits))))


def _short(content: Any, without: tuple[str, ...]) -> str:
    kept = {key: value for key, value in content.items() if key not in without}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:SHORT] if kept else "none"


def _json(path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ModelUnreadable(f"The file is not JSON: {error}.", "Restore the model's file.", where=str(path)) from None
    if not isinstance(content, dict):
        raise ModelUnreadable("The file is not a JSON object.", "Restore the model's file.", where=str(path))
    return content
