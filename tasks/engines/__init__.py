"""Engines: programs that serve a folder of weights by the OpenAI API, one file each.

Adding an engine is adding a file here with a class `Engine`, its memory profile in it or in a YAML file beside it; a
line names it by the file's name. An installed distribution can add one by an entry point (`weighbridge.plugins`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tasks.engines._endpoints import Counted, Endpoints, read_endpoints
from tasks.engines._memory import (
    Activation,
    EngineFlags,
    EngineProfile,
    Graphs,
    graphs_gib,
    non_torch_gib,
    profile_of_version,
    read_profiles,
)
from tasks.engines._protocol import Engine, EnginePlan, KnownArchitectures, LaunchSpec
from tasks.schemes import all_schemes
from tasks.source.gguf.reader import GGUF_FILE
from weighbridge import plugins
from weighbridge.errors import EngineFailed, EngineUnknown, PluginInvalid

HOW_TO = "docs/how-to/add-an-engine.md"

__all__ = [
    "Activation",
    "Counted",
    "Endpoints",
    "Engine",
    "EngineFlags",
    "EnginePlan",
    "EngineProfile",
    "Graphs",
    "KnownArchitectures",
    "LaunchSpec",
    "engine",
    "engine_names",
    "engine_profile",
    "graphs_gib",
    "known_architectures",
    "launch_spec",
    "non_torch_gib",
    "read_endpoints",
    "read_profiles",
    "serves",
]


def engine_names() -> list[str]:
    """Names that a line may use; `llama-cpp` is the file `llama_cpp.py`."""
    return sorted([*_built_in_names(), *plugins.names(plugins.ENGINES, _built_in_names())])


def engine(name: str) -> Engine:
    """Find an engine by its name.

    Raises:
        EngineUnknown: there is none of that name; the message lists all.
        PluginInvalid: the plug-in of that name cannot be used.
    """
    if name in _built_in_names():
        found = plugins.load_file(__name__, name.replace("-", "_"), "Engine", HOW_TO)
    elif name in engine_names():
        found = plugins.load_one(plugins.ENGINES, name)
    else:
        raise EngineUnknown(
            f"There is no engine called {name!r}; known engines: {', '.join(engine_names())}.",
            f"Name one of these under `engine:` in the line's file, or add yours ({HOW_TO}).",
        )
    return _checked(name, found)


def engine_profile(name: str, version: str | None = None) -> EngineProfile:
    """Find the memory profile of an engine's version, or the nearest one, marked `nearest`.

    Args:
        name: such as `vllm`.
        version: such as `0.19`; None for the newest profile.

    Raises:
        EngineUnknown: there is no such engine.
        PluginInvalid: the plug-in of that name cannot be used.
        FitOptionUnknown: the version has no number.
    """
    return profile_of_version(engine(name).memory, version)


def known_architectures(name: str) -> KnownArchitectures | None:
    """Find the architectures that an engine supports by name; None if it has no list.

    Raises:
        EngineUnknown: there is no such engine.
    """
    return engine(name).architectures


def serves(engine: Engine, model_folder: Path) -> bool:
    """Whether an engine reads the files of an artifact."""
    return (engine.reads == "GGUF") == (model_folder / GGUF_FILE).is_file()


def launch_spec(engine: Engine, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
    """Build the command and environment that start an engine on an artifact.

    Raises:
        EngineFailed: it does not read the artifact's files, or the line has a flag that it does not take.
    """
    if not serves(engine, model_folder):
        readable = [
            scheme.name
            for scheme in all_schemes()
            if scheme.written and scheme.is_gguf == (engine.reads == "GGUF") and engine.memory[-1].serves(scheme)
        ]
        raise EngineFailed(
            f"{plan.engine} serves {engine.reads}, and this artifact is none.",
            f"Name one of these under `schemes:` in the line's file: {', '.join(readable)}; or another engine under "
            "`engine:`.",
            where=str(model_folder),
        )
    return engine.launch(plan, model_folder, host, port)


@cache
def _built_in_names() -> tuple[str, ...]:
    files = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(stem.replace("_", "-") for stem in files if not stem.startswith("_")))


def _checked(name: str, found: object) -> Engine:
    """Check that a class states everything that planning and serving need, and instantiate it.

    A missing memory profile is an error: another engine's profile would give a wrong plan.
    """
    problem = ""
    if not (isinstance(found, type) and issubclass(found, Engine)):
        problem = "is not a subclass of `tasks.engines.Engine`"
    elif missing := sorted(found.__abstractmethods__):
        problem = f"lacks {', '.join(missing)}"
    elif not getattr(found, "memory", ()):
        problem = "states no memory profile (`memory`), so nothing can be planned for it"
    if problem:
        raise PluginInvalid(
            f"The engine {name!r} {problem}.",
            f"Complete its class; {HOW_TO} shows a whole one.",
            where=plugins.place(plugins.ENGINES, name) or f"tasks/engines/{name.replace('-', '_')}.py",
        )
    assert isinstance(found, type) and issubclass(found, Engine)
    return found()
