"""Retirements of lines, as they are written down in the home."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from weighbridge.errors import LineUnknown
from weighbridge.files import write_whole
from weighbridge.line import line_names
from weighbridge.settings import Settings


class Retirement(BaseModel):
    """The end of a line."""

    model_config = ConfigDict(frozen=True)

    line: str
    at: str
    """ISO 8601, UTC: when it began."""
    who: str
    reason: str = ""
    done: bool = False


def read_retirement(settings: Settings, name: str) -> Retirement | None:
    """Read the latest retirement of a line of this name; None if there is none that can be read."""
    try:
        return Retirement.model_validate_json(_file(settings, name).read_bytes())
    except (OSError, ValidationError):
        return None


def write_retirement(settings: Settings, retirement: Retirement) -> None:
    """Write a retirement down, synced to disk."""
    write_whole(_file(settings, retirement.line), retirement.model_dump_json())


def is_retired(settings: Settings, name: str) -> bool:
    """True if a line was retired and no line of its name was made since."""
    retirement = read_retirement(settings, name)
    return retirement is not None and retirement.done and name not in line_names(settings.root / "lines")


def refuse_retired(settings: Settings, name: str) -> None:
    """Let the rest of a run of a line go on only if the line was not retired meanwhile.

    Raises:
        LineUnknown: Its retirement has begun, and no line of its name was made since.
    """
    retirement = read_retirement(settings, name)
    if retirement is not None and name not in line_names(settings.root / "lines"):
        raise LineUnknown(
            f"{name} was retired by {retirement.who} while it was released; nothing was proposed.",
            f"There is nothing to do. To go on with it, put lines/{name}.yaml back and release it again.",
        )


def _file(settings: Settings, name: str) -> Path:
    return settings.home / "retired" / f"{name}.json"
