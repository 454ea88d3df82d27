"""Why an engine was not started: kept beside its record, for the flow that waits for it and for `status`."""

from __future__ import annotations

import json
from pathlib import Path

from weighbridge.errors import ArtifactDamaged, ArtifactUnsigned, DiskFull, PortTaken, WeighbridgeError
from weighbridge.files import write_whole
from weighbridge.settings import Settings

START_SECONDS = 1
"""A program that ends earlier has not started by supervisord's count, which tries five times more."""
REFUSED_STATUS = 86
"""Exit status of an engine that must not be started again. No engine is known to end with it by itself."""
FILE = "refused.json"
KINDS: dict[str, type[WeighbridgeError]] = {
    kind.__name__: kind for kind in (ArtifactDamaged, ArtifactUnsigned, PortTaken)
}


def keep_refusal(folder: Path, error: WeighbridgeError) -> None:
    """Keep why the engine of a folder was not started; a full disk keeps it in the log only."""
    try:
        write_whole(folder / FILE, json.dumps(error.as_dict()))
    except (DiskFull, OSError):
        return


def forget_refusal(folder: Path) -> None:
    """Forget an earlier refusal."""
    (folder / FILE).unlink(missing_ok=True)


def refusal(settings: Settings, engine_name: str) -> WeighbridgeError | None:
    """Read why an engine was not started; None if it was.

    Args:
        settings: the installation.
        engine_name: the engine's.
    """
    try:
        kept = json.loads((settings.home / "engines" / engine_name / FILE).read_text())
        return KINDS[kept["error"]](kept["what"], kept["next"], kept["where"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        # Written whole or not at all: it was edited.
        return ArtifactDamaged("The engine was not started.", "Read its log.", where=engine_name)
