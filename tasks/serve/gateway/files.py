"""Files that are there whole or not at all, and YAML that Envoy reads as it was meant."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml


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


class _Dumper(yaml.SafeDumper):
    """Every string in quotes: Envoy's parser takes a bare `n` or `y` for a truth value, PyYAML's does not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Dumper.add_representer(str, _quoted)


def as_yaml(document: dict[str, Any]) -> str:
    """A document as YAML, with the fields in the order given."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000)
