"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file so that a reader, or a crash, meets the old text or the new and nothing between.

    Envoy notices a file of its own by this very rename.

    Args:
        mode: permission bits; only the owner's by default, since these files name keys.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def as_json(document: dict[str, Any]) -> str:
    """A document for Envoy, with the fields in the order given.

    Not YAML, where Envoy's parser takes a bare `n` or `y` for a truth value and PyYAML's does not, and which
    Envoy reads many times more slowly.
    """
    return json.dumps(document, indent=1) + "\n"
