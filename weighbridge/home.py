"""Where an installation lies: the folder of its lines, and its home, the folder of all its state."""

from __future__ import annotations

import os
from pathlib import Path

from weighbridge.documents import read_json
from weighbridge.errors import DocumentInvalid, SettingsInvalid
from weighbridge.suggestions import did_you_mean

PREFIX = "WEIGHBRIDGE_"
RECORD = "stack.json"
"""What `weighbridge up` noted of the running stack, until `weighbridge down`."""
HOME_SETTINGS = "settings.json"
"""What `weighbridge up` was told to remember of a home for good: the offset of its ports."""


def project_root() -> Path:
    """Find the folder that holds `lines/` and `eval_suites/`: $WEIGHBRIDGE_ROOT, else the checkout."""
    named = os.environ.get(f"{PREFIX}ROOT")
    return _resolved(Path(named), "ROOT") if named else Path(__file__).resolve().parent.parent


def home_folder() -> Path:
    """Find the folder of all state (store, databases, logs): $WEIGHBRIDGE_HOME, else `.weighbridge` in the root."""
    named = os.environ.get(f"{PREFIX}HOME")
    # Its place is the folder that a link leads to, such as one on a larger disk.
    return _resolved(Path(named) if named else project_root() / ".weighbridge", "HOME")


def home_hint() -> str:
    """What may be wrong with the choice of the home: a sentence, or nothing.

    A relative folder is another one in each working directory, and a misspelt one is a new one.
    """
    named, home = os.environ.get(f"{PREFIX}HOME"), home_folder()
    if named and not Path(named).is_absolute():
        return f"{PREFIX}HOME is relative, and means {home} in this folder only: `export {PREFIX}HOME={home}`."
    if named and not home.exists():
        others = [folder.name for folder in home.parent.glob("*/") if (folder / "supervisor").is_dir()]
        return f"There is no {home} ({PREFIX}HOME){did_you_mean(home.name, others) or '.'}"
    return ""


def _resolved(folder: Path, variable: str) -> Path:
    try:
        return folder.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise SettingsInvalid(
            f"The folder cannot be found: {error}.",
            "Name another folder with the variable, then run the command again.",
            where=f"{PREFIX}{variable}",
        ) from None


def kept_offset(home: Path) -> int:
    """The offset that a home's ports were given for good; 0 if none was."""
    try:
        kept = read_json(home / HOME_SETTINGS)
    except DocumentInvalid:
        return 0
    return read_offset(kept.get("port_offset")) or 0 if isinstance(kept, dict) else 0


def read_offset(value: object) -> int | None:
    """Read an offset of ports; None if it is no number."""
    try:
        return int(str(value))
    except ValueError:
        return None
