"""Check a line's file against what there is: engines, schemes, GPUs, methods, suites and their size, licences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, log
from typing import Any, NamedTuple

from tasks.engines import engine, engine_names
from tasks.evaluate.suites.suite import find_suite, list_suites
from tasks.fit.hardware.gpus import gpu_names
from tasks.quantize.methods import method_names
from tasks.schemes import scheme_names
from tasks.source.licences import is_known, known_licences
from weighbridge.errors import LineInvalid, PluginInvalid, WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import Settings
from weighbridge.suggestions import did_you_mean


class UsedName(NamedTuple):
    """One name in a line's file, and the names that could stand there."""

    field: str
    """Its place in the file, such as `target.gpus.0`."""
    kind: str
    """What it names, for the message."""
    name: str
    known_names: Sequence[str]


def check_line(line: Line, settings: Settings) -> list[LineInvalid]:
    """Check a line against what exists: every name in it, its licences' spelling, and the size of its suites.

    `Line.load` checks the form of the fields; it cannot know which engines, schemes, GPUs and suites there are.

    Args:
        line: a loaded line.
        settings: of the installation; its `root` holds `eval_suites/`.

    Returns:
        A problem for each mistake, with the file and field, and one for an engine that is incomplete; empty when the
        line can be used.

    Raises:
        GpuFileInvalid: the installation's own file of GPUs cannot be read.
        PluginInvalid: the name of a plug-in is taken, or a scheme cannot be loaded.
    """
    problems = [*check_names(line.name, line.model_dump(), settings), *_misspelt_licences(line)]
    if line.engine.name in engine_names():
        try:
            engine(line.engine.name)
        except PluginInvalid as error:
            what = f"engine.name: {error.what}  [{error.where}]"
            problems.append(LineInvalid(what, error.next_step, where=f"lines/{line.name}.yaml"))
    return [*problems, *_small_suites(line, settings)]


def check_names(line_name: str, fields: object, settings: Settings) -> list[LineInvalid]:
    """Check the names in a line's fields, also of a file whose form has mistakes.

    Args:
        line_name: the line's.
        fields: as the file has them.
        settings: of the installation.

    Returns:
        A problem for each unknown name.
    """
    return [
        LineInvalid(
            f"{used.field}: there is no {used.kind} called {used.name!r}"
            f"{did_you_mean(used.name, used.known_names) or '.'}",
            f"Name one of these: {', '.join(used.known_names) or 'none is known yet'}.",
            where=f"lines/{line_name}.yaml",
        )
        for used in _names_in(fields, settings)
        if used.name not in used.known_names
    ]


def unknown_names(line: Line, settings: Settings) -> LineInvalid | None:
    """Return one error that names every unknown name in a line; None if all are known."""
    found = check_names(line.name, line.model_dump(), settings)
    if not found:
        return None
    what = "; ".join(problem.what.rstrip(".?") for problem in found)
    return LineInvalid(f"{what}.", f"Correct them; `weighbridge lines check {line.name}` lists them.", found[0].where)


def _misspelt_licences(line: Line) -> Iterator[LineInvalid]:
    """Licences that are none, but nearly one. A publisher may give terms of its own any other name."""
    for index, name in enumerate(line.admission.licences):
        known = known_licences()
        if is_known(name) or not (near := did_you_mean(name, known)):
            continue
        meant = near.removeprefix("; did you mean ").removesuffix("?")
        if _letters(name) == _letters(meant) and _signs(name) != _signs(meant):
            # Another version, such as one that is newer than this list.
            continue
        yield LineInvalid(
            f"admission.licences.{index}: there is no licence called {name!r}{near}",
            "Write it as the model's card does; no release passes under a misspelt licence.",
            where=f"lines/{line.name}.yaml",
        )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.casefold())


def _signs(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _small_suites(line: Line, settings: Settings) -> Iterator[LineInvalid]:
    """Suites that cannot be read, or that decide nothing at their margin even if no answer differs."""
    known = list_suites(settings.root)
    for index, use in enumerate(line.suites):
        if use.name not in known:
            continue
        where = f"lines/{line.name}.yaml"
        try:
            items = find_suite(use.name, settings.root).items
        except WeighbridgeError as error:
            yield LineInvalid(f"suites.{index}.name: {error.what}  [{error.where}]", error.next_step, where)
            continue
        needed = fewest_items(use.margin, line.confidence)
        if items < needed:
            yield LineInvalid(
                f"suites.{index}.margin: {use.name} has {items} items, and a margin of {use.margin:g} is never decided "
                f"with fewer than {needed}, even if no answer differs.",
                f"Write more items, or choose a wider margin: `weighbridge suite check {use.name} --margin "
                f"{use.margin:g}` says what would do.",
                where,
            )


def fewest_items(margin: float, confidence: float) -> int:
    """Fewest items with which a margin can be decided: so many equal answers are too unlikely at that loss."""
    return ceil(log(1 - confidence) / log(1 - margin))


def _names_in(fields: object, settings: Settings) -> Iterator[UsedName]:
    """Names in fields of any form: what is no name there is the business of `Line.load`."""
    line = _mapping(fields)
    yield from _indexed_names("schemes", "scheme", line.get("schemes"), scheme_names())
    yield from _indexed_names("target.gpus", "GPU", _mapping(line.get("target")).get("gpus"), gpu_names())
    for scheme, choice in _mapping(_mapping(line.get("quantize")).get("schemes")).items():
        yield UsedName(f"quantize.schemes.{scheme}", "scheme", str(scheme), scheme_names())
        methods = _mapping(choice).get("methods")
        yield from _indexed_names(f"quantize.schemes.{scheme}.methods", "method", methods, method_names())
    if isinstance(name := _mapping(line.get("engine")).get("name"), str):
        yield UsedName("engine.name", "engine", name, engine_names())
    suites = list_suites(settings.root)
    uses = line.get("suites")
    for index, use in enumerate(uses if isinstance(uses, list) else ()):
        if isinstance(name := _mapping(use).get("name"), str):
            yield UsedName(f"suites.{index}.name", "suite", name, suites)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _indexed_names(field: str, kind: str, names: object, known_names: Sequence[str]) -> Iterator[UsedName]:
    listed = names if isinstance(names, list) else ()
    return (
        UsedName(f"{field}.{index}", kind, name, known_names)
        for index, name in enumerate(listed)
        if isinstance(name, str)
    )
