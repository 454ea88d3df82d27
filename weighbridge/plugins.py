"""Plug-ins: engines, schemes and assertions, in files of this project or added by other distributions.

A distribution names its objects in its own pyproject.toml, and installing it is enough:

    [project.entry-points."weighbridge.engines"]
    my-engine = "my_package.engine:Engine"

Built-in names win: a plug-in with the name of a built-in one is refused, never used in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from pydantic import ValidationError

from weighbridge.errors import PluginInvalid
from weighbridge.validation import all_faults

ENGINES, SCHEMES, ASSERTIONS = "weighbridge.engines", "weighbridge.schemes", "weighbridge.assertions"


def load(group: str, builtin: Collection[str] = ()) -> dict[str, object]:
    """Load every plug-in of a group.

    Args:
        group: `weighbridge.engines`, `weighbridge.schemes` or `weighbridge.assertions`.
        builtin: Names of the project's own objects, which no plug-in may take.

    Returns:
        The loaded objects by name; empty if no installed distribution has any.

    Raises:
        PluginInvalid: A plug-in fails to import, or its name is taken; its distribution is named.
    """
    return {name: load_one(group, name) for name in names(group, builtin)}


def names(group: str, builtin: Collection[str] = ()) -> list[str]:
    """List the names of a group's plug-ins, sorted, without importing any of them.

    Raises:
        PluginInvalid: A name is built in, or two distributions claim it.
    """
    found = _by_name(group)
    for name, points in found.items():
        if name in builtin:
            raise PluginInvalid(
                f"The plug-in {name!r} ({group}) of {_distribution(points[0])} has the name of a built-in one.",
                f"Uninstall {_distribution(points[0])}, or ask its authors for another name.",
                where=points[0].value,
            )
        if len(points) > 1:
            raise PluginInvalid(
                f"Two distributions add a plug-in {name!r} ({group}): {', '.join(map(_distribution, points))}.",
                "Uninstall all but one of them.",
                where=name,
            )
    return sorted(found)


def load_one(group: str, name: str) -> object:
    """Load one plug-in.

    Raises:
        KeyError: No installed distribution has it.
        PluginInvalid: It fails to import; its distribution is named.
    """
    point = _by_name(group)[name][0]
    try:
        return point.load()
    except Exception as error:  # A foreign module may raise anything while it is imported.
        raise PluginInvalid(
            f"The plug-in {name!r} ({group}) of {_distribution(point)} cannot be loaded: {_cause(error)}.",
            f"Repair or uninstall {_distribution(point)}.",
            where=point.value,
        ) from error


def load_file(package: str, file: str, attribute: str, page: str) -> object:
    """Load an object from one of the project's own files.

    Args:
        package: Package of the file, such as `tasks.engines`.
        file: Its name without `.py`.
        attribute: Name of the object in it, such as `Engine`.
        page: Page of the documentation that describes such a file, for the message.

    Raises:
        PluginInvalid: The file fails to import, or lacks the object.
    """
    try:
        return getattr(import_module(f"{package}.{file}"), attribute)
    except Exception as error:  # A contributor's unfinished file may raise anything.
        raise PluginInvalid(
            f"The file cannot be loaded: {_cause(error)}.",
            f"Correct it; {page} shows a whole file.",
            where=f"{package.replace('.', '/')}/{file}.py",
        ) from error


def place(group: str, name: str) -> str:
    """Say which distribution adds a plug-in, and from where; empty for a name that none adds."""
    points = _by_name(group).get(name, [])
    return f"{points[0].value} of {_distribution(points[0])}" if points else ""


def _by_name(group: str) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in _entry_points(group, tuple(sys.path)):
        found.setdefault(point.name, []).append(point)
    return found


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """All of a group on this search path; the metadata of every distribution is read, which takes tens of ms."""
    return tuple(entry_points(group=group))


def _cause(error: Exception) -> str:
    """Describe an error on one line; pydantic spreads its own over several, with a link."""
    if isinstance(error, ValidationError):
        return all_faults(error)
    return f"{type(error).__name__}: {error}".rstrip(".")


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"
