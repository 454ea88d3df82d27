"""Engines: what turns a folder of weights into an OpenAI-compatible server, one file each.

Adding an engine is adding a file here with a class `Engine`; a line names it by the file's name.
"""

from __future__ import annotations

import importlib
import pkgutil

from tasks.serve.engines.protocol import Engine, EnginePlan, LaunchSpec
from weighbridge.errors import EngineUnknown

__all__ = ["Engine", "EnginePlan", "LaunchSpec", "engine", "engine_names"]


def engine_names() -> list[str]:
    """Names that a line may use; `llama-cpp` is the file `llama_cpp.py`."""
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name.replace("_", "-") for name in files if name != "protocol" and not name.startswith("_"))


def engine(name: str) -> Engine:
    """The engine of a name.

    Raises:
        EngineUnknown: no file of that name.
    """
    if name not in engine_names():
        raise EngineUnknown(
            f"There is no engine called {name!r}; known engines: {', '.join(engine_names())}.",
            "Name one of these under `engine:` in the line's file.",
        )
    found: Engine = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").Engine()
    return found
