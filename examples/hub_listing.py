"""An author's models at the stand-in for the Hub: newest first, in one page."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from examples.hub_repository import Repository

MAIN = "main"


def list_models(root: Path, author: str, limit: int) -> list[dict[str, Any]]:
    """List an author's repositories, with the fields that the Hub gives.

    Args:
        root: folder of the stand-in's repositories.
        author: the owner; empty for all.
        limit: largest number of repositories.
    """
    folders = [refs.parent for refs in root.glob(f"{author or '*'}/*/refs") if (refs / MAIN).is_file()]
    listed = [_listed(Repository(root, folder.parent.name, folder.name)) for folder in folders]
    return sorted(listed, key=lambda model: str(model["createdAt"]), reverse=True)[:limit]


def _listed(repository: Repository) -> dict[str, Any]:
    commit = repository.commit_of(MAIN)
    described = repository.describe(commit, with_blobs=False)
    fields = ("_id", "id", "sha", "createdAt", "lastModified", "gated", "private", "disabled", "tags")
    parameters = _parameters(repository.folder / commit)
    return {name: described[name] for name in fields} | ({"safetensors": parameters} if parameters else {})


def _parameters(folder: Path) -> dict[str, Any] | None:
    """Count parameters by dtype, as the Hub does from the headers; None if a header is invalid."""
    counts: Counter[str] = Counter()
    try:
        for path in folder.glob("*.safetensors"):
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            for name, tensor in header.items():
                if name != "__metadata__":
                    counts[tensor["dtype"]] += math.prod(tensor["shape"])
    except (ValueError, TypeError, KeyError, MemoryError, OverflowError):
        return None
    return {"parameters": dict(counts), "total": counts.total()} if counts else None
