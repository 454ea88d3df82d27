"""Check the names in a line's file against everything that is installed: engines, schemes, GPUs, methods, suites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tasks.engines import engine, engine_names
from tasks.evaluate.suites.suite import list_suites
from tasks.fit.hardware.gpus import gpu_names
from tasks.quantize.methods import method_names
from tasks.schemes import scheme_names
from weighbridge.errors import LineInvalid, PluginInvalid
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
    """Check every name of a line against what exists.

    `Line.load` checks the form of the fields; it cannot know which engines, schemes, GPUs and suites there are.

    Args:
        line: a loaded line.
        settings: of the installation; its `root` holds `eval_suites/`.

    Returns:
        A problem for each unknown name, with the file and field, and one for an engine that is incomplete; empty when
        the line can be used.

    Raises:
        GpuFileInvalid: the installation's own file of GPUs cannot be read.
        PluginInvalid: the name of a plug-in is taken, or a scheme cannot be loaded.
    """
    problems = [
        LineInvalid(
            f"{used.field}: there is no {used.kind} called {used.name!r}"
            f"{did_you_mean(used.name, used.known_names) or '.'}",
            f"Name one of these: {', '.join(used.known_names) or 'none is known yet'}.",
            where=f"lines/{line.name}.yaml",
        )
        for used in _names_in(line, settings)
        if used.name not in used.known_names
    ]
    if line.engine.name in engine_names():
        try:
            engine(line.engine.name)
        except PluginInvalid as error:
            what = f"engine.name: {error.what}  [{error.where}]"
            problems.append(LineInvalid(what, error.next_step, where=f"lines/{line.name}.yaml"))
    return problems


def _names_in(line: Line, settings: Settings) -> Iterator[UsedName]:
    yield from _indexed_names("schemes", "scheme", line.schemes, scheme_names())
    yield from _indexed_names("target.gpus", "GPU", line.target.gpus, gpu_names())
    for scheme, choice in line.quantize.schemes.items():
        yield UsedName(f"quantize.schemes.{scheme}", "scheme", scheme, scheme_names())
        yield from _indexed_names(f"quantize.schemes.{scheme}.methods", "method", choice.methods, method_names())
    yield UsedName("engine.name", "engine", line.engine.name, engine_names())
    suites = list_suites(settings.root)
    for index, use in enumerate(line.suites):
        yield UsedName(f"suites.{index}.name", "suite", use.name, suites)


def _indexed_names(field: str, kind: str, names: Iterable[str], known_names: Sequence[str]) -> Iterator[UsedName]:
    return (UsedName(f"{field}.{index}", kind, name, known_names) for index, name in enumerate(names))
