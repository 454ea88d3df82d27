"""Quantization schemes, one small file each; a file dropped in here, or an installed plug-in, adds one.

A scheme states the number format, its size, and the kernel that computes with it. A method
(`tasks/quantize/methods/`) finds the values, and the recipe (`tasks/quantize/plan/recipe.py`) chooses the layers.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tasks.schemes._scheme import Capability, GgufMixture, Scheme
from weighbridge import plugins
from weighbridge.errors import PluginInvalid, SchemeUnknown

__all__ = [
    "AS_PUBLISHED",
    "Capability",
    "GgufMixture",
    "Scheme",
    "all_schemes",
    "scheme",
    "scheme_names",
    "writable_scheme",
]

HOW_TO = "docs/how-to/add-a-scheme.md"

AS_PUBLISHED = "bf16"
"""The scheme that leaves a release alone."""


def scheme_names() -> tuple[str, ...]:
    """Names that a line may use, sorted; `int8-w8a16` is the file `int8_w8a16.py`."""
    return tuple(sorted(scheme.name for scheme in all_schemes() if scheme.written))


def all_schemes() -> tuple[Scheme, ...]:
    """Every scheme, also the read-only ones: integers before floats before GGUF, more bits first."""
    names = (*_built_in_names(), *plugins.names(plugins.SCHEMES, _built_in_names()))
    return tuple(sorted(map(_load, names), key=_rank))


def scheme(name: str) -> Scheme:
    """Find a scheme by its name, whether a line may name it or not.

    Raises:
        SchemeUnknown: there is none of that name; the message lists all.
        PluginInvalid: the plug-in of that name cannot be used.
    """
    if name in _built_in_names() or name in plugins.names(plugins.SCHEMES, _built_in_names()):
        return _load(name)
    raise SchemeUnknown(
        f"There is no scheme called {name!r}; known schemes: {', '.join(scheme_names())}.",
        f"Name one of these, or add yours ({HOW_TO}).",
        where=name,
    )


def writable_scheme(name: str) -> Scheme:
    """Find a scheme that a line may name.

    Raises:
        SchemeUnknown: there is none of that name, or it is read-only (published releases).
        PluginInvalid: the plug-in of that name cannot be used.
    """
    found = scheme(name)
    if not found.written:
        raise SchemeUnknown(
            f"{name} is read in releases that are published so, and not written; "
            f"schemes that are: {', '.join(scheme_names())}.",
            "Name one of these in the line's `schemes`; bf16 serves a release as it was published.",
            where=name,
        )
    return found


@cache
def _built_in_names() -> tuple[str, ...]:
    files = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(stem.replace("_", "-") for stem in files if not stem.startswith("_")))


def _load(name: str) -> Scheme:
    if name in _built_in_names():
        found = plugins.load_file(__name__, name.replace("-", "_"), "SCHEME", HOW_TO)
    else:
        found = plugins.load_one(plugins.SCHEMES, name)
    problem = ""
    if not isinstance(found, Scheme):
        problem = f"is of type {type(found).__name__}, not a `tasks.schemes.Scheme`"
    elif found.name != name:
        problem = f"calls itself {found.name!r}: its `name` must be that of its file or entry point"
    if problem:
        raise PluginInvalid(
            f"The scheme {name!r} {problem}.",
            f"Correct it ({HOW_TO} shows a whole one), or uninstall its distribution.",
            where=plugins.place(plugins.SCHEMES, name) or f"tasks/schemes/{name.replace('-', '_')}.py",
        )
    assert isinstance(found, Scheme)
    return found


def _rank(scheme: Scheme) -> tuple[int, int, str]:
    family = 0 if not scheme.changes_weights else 3 if scheme.is_gguf else 2 if scheme.weight_type == "float" else 1
    return family, -scheme.weight_bits, scheme.name
