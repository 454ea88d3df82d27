"""What the stand-in for the Hub answers to a listing of an author's models: newest first, in one page."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from examples.hub_repository import Repository

MAIN = "main"


def list_models(root: Path, author: str, limit: int) -> list[dict[str, Any]]:
    """An author's repositories, or everybody's, as the Hub lists them when asked for these fields.

    Args:
        root: where the stand-in keeps its repositories.
        author: the owner; empty means all.
        limit: at most so many.
    """
    folders = [refs.parent for refs in root.glob(f"{author or '*'}/*/refs") if (refs / MAIN).is_file()]
    listed = [_listed(Repository(root, folder.parent.name, folder.name)) for folder in folders]
    return sorted(listed, key=lambda one: str(one["createdAt"]), reverse=True)[:limit]


def _listed(repository: Repository) -> dict[str, Any]:
    commit = repository.commit_of(MAIN)
    described = repository.describe(commit, with_blobs=False)
    fields = ("_id", "id", "sha", "createdAt", "lastModified", "gated", "private", "disabled", "tags")
    counted = _parameters(repository.folder / commit)
    return {name: described[name] for name in fields} | ({"safetensors": counted} if counted else {})


def _parameters(folder: Path) -> dict[str, Any] | None:
    """Numbers by dtype, as the Hub counts them in the headers; None where a header is not one."""
    found: Counter[str] = Counter()
    try:
        for path in folder.glob("*.safetensors"):
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            for name, tensor in header.items():
                if name != "__metadata__":
                    found[tensor["dtype"]] += math.prod(tensor["shape"])
    except (ValueError, TypeError, KeyError, MemoryError, OverflowError):
        return None
    return {"parameters": dict(found), "total": found.total()} if found else None
