"""How long a line's engines took to start, so that a swap can announce the length of its gap."""

from __future__ import annotations

import re
from pathlib import Path

from weighbridge.files import READABLE, write_whole
from weighbridge.settings import Settings


def longest_start_seconds(settings: Settings, line: str, engine_version: str) -> float | None:
    """Longest time from an engine's start to its proof so far; None if none was seen, or the note is damaged."""
    try:
        return float(_file(settings, line, engine_version).read_text())
    except (FileNotFoundError, ValueError):
        return None


def note_start(settings: Settings, line: str, engine_version: str, seconds: float) -> None:
    """Record the duration of a start."""
    longest = max(longest_start_seconds(settings, line, engine_version) or 0.0, seconds)
    write_whole(_file(settings, line, engine_version), f"{longest:.1f}", READABLE)


def _file(settings: Settings, line: str, engine_version: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9.]+", "-", engine_version)
    return settings.home / "fit" / f"start-{line}-{name}.seconds"
