"""What the shell completes after Tab: names of lines, schemes and engines, read from the names of their files.

It runs at each press of the key, so nothing but the standard library is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def lines(incomplete: str) -> list[str]:
    """Complete a line's name.

    Args:
        incomplete: What was typed so far.
    """
    folder = Path(os.environ.get("WEIGHBRIDGE_ROOT") or CHECKOUT) / "lines"
    return _beginning(incomplete, [path.stem for path in folder.glob("*.yaml")])


def schemes(incomplete: str) -> list[str]:
    """Complete a scheme of the project; those of plug-ins are not known without importing them."""
    return _beginning(incomplete, _modules("schemes"))


def engines(incomplete: str) -> list[str]:
    """Complete an engine of the project."""
    return _beginning(incomplete, _modules("engines"))


def _modules(kind: str) -> list[str]:
    found = (CHECKOUT / "tasks" / kind).glob("[!_]*.py")
    return [path.stem.replace("_", "-") for path in found]


def _beginning(incomplete: str, names: list[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
