"""Quantization schemes, one small file each; dropping a file in here adds one.

A scheme says *what* the numbers become. *How* they are found is a method (`tasks/quantize/methods/`), and
which layers they are found for is the plan's (`tasks/quantize/plan/recipe.py`).
"""

from __future__ import annotations

import importlib
from pathlib import Path

from tasks.schemes._scheme import Scheme
from weighbridge.errors import SchemeUnknown

__all__ = ["Scheme", "scheme", "scheme_names"]


def scheme_names() -> tuple[str, ...]:
    """Names of all schemes, sorted; `int8-w8a16` is the file `int8_w8a16.py`."""
    files = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(stem.replace("_", "-") for stem in files if not stem.startswith("_")))


def scheme(name: str) -> Scheme:
    """The scheme of a name.

    Raises:
        SchemeUnknown: there is no such file; the message lists those that exist.
    """
    if name not in scheme_names():
        raise SchemeUnknown(
            f"There is no scheme called {name!r}; known schemes: {', '.join(scheme_names())}.",
            "Name one of these in the line's `schemes`.",
            where=name,
        )
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    found: Scheme = module.SCHEME
    return found
