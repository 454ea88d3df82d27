"""Installations to back up and restore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from registry.models.registry import Registry
from weighbridge.settings import Settings

Home = Callable[..., Settings]


def registry_of(settings: Settings) -> Registry:
    """Open an installation's registry without its server."""
    return Registry(settings.mlflow_backend)


def everything(folder: Path) -> dict[str, tuple[int, float]]:
    """List what lies below a folder, with sizes and times."""
    return {
        path.relative_to(folder).as_posix(): (0, 0) if path.is_dir() else (path.lstat().st_size, path.lstat().st_mtime)
        for path in folder.rglob("*")
        if path.suffix != ".lock" and "-shm" not in path.name and "-wal" not in path.name
    }
