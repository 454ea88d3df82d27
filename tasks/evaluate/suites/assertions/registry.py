"""All assertion kinds by name: those of the files in `kinds/`, and those of plug-ins."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import entry_points
from pkgutil import iter_modules

from tasks.evaluate.suites.assertions import kinds
from tasks.evaluate.suites.assertions.base import AssertionKind
from weighbridge import plugins
from weighbridge.errors import PluginInvalid

HOW_TO = "docs/how-to/add-an-assertion.md"
VERSION = 3
"""Part of every score's key: raise it when an assertion decides differently than before.

3: What a model thinks before its answer is no part of the answer.
2: NaN and Infinity are no longer JSON; `equals` takes a number for its text and tells 1 from true.
"""


def assertion_kinds() -> dict[str, AssertionKind]:
    """Return every supported kind by its name in suites, without `not-`.

    Raises:
        PluginInvalid: a plug-in cannot be loaded, is not an `AssertionKind`, or has a name that is taken.
    """
    return _find_kinds(tuple(kinds.__path__), tuple(sys.path))


def assertions_version() -> str:
    """Return the version of all assertions, part of every score's key; plug-ins add theirs."""
    return _find_version(tuple(sys.path))


@cache
def _find_kinds(folders: tuple[str, ...], path: tuple[str, ...]) -> dict[str, AssertionKind]:
    """The arguments are the cache's key: where kinds are looked for."""
    found: dict[str, AssertionKind] = {}
    for name in sorted(module.name for module in iter_modules(folders)):
        added = plugins.load_file(kinds.__name__, name, "KINDS", HOW_TO)
        if not isinstance(added, dict) or (taken := sorted(added.keys() & found.keys())):
            problem = f"adds {', '.join(taken)} again" if isinstance(added, dict) else "has no dictionary `KINDS`"
            raise PluginInvalid(
                f"The file {problem}.", f"Correct it ({HOW_TO}).", where=f"{kinds.__name__.replace('.', '/')}/{name}.py"
            )
        found |= added
    for name, kind in plugins.load(plugins.ASSERTIONS, builtin=found).items():
        if not isinstance(kind, AssertionKind):
            raise PluginInvalid(
                f"The plug-in {name!r} ({plugins.ASSERTIONS}) is not an AssertionKind but {type(kind).__name__}.",
                f"Let its entry point name an AssertionKind ({HOW_TO}).",
                where=plugins.place(plugins.ASSERTIONS, name),
            )
        found[name] = kind
    return found


@cache
def _find_version(path: tuple[str, ...]) -> str:
    points = sorted(entry_points(group=plugins.ASSERTIONS), key=lambda point: point.name)
    versions = [f"{point.name} {point.dist.version}" for point in points if point.dist]
    return " ".join([str(VERSION), *versions])
