"""Engines: what turns a folder of weights into an OpenAI-compatible server, one file each.

Adding an engine is adding a file here with a class `Engine`; a line names it by the file's name.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from tasks.engines.protocol import Engine, EnginePlan, LaunchSpec
from tasks.source.gguf.reader import GGUF_FILE
from weighbridge.errors import EngineFailed, EngineUnknown

__all__ = ["Engine", "EnginePlan", "LaunchSpec", "engine", "engine_names", "launch_spec", "serves"]

SCHEMES_THAT_IT_READS = {"GGUF": "q8-0 or q4-k-m", "safetensors": "bf16, int8, int4 or fp8"}


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


def serves(chosen: Engine, model_folder: Path) -> bool:
    """Whether an engine reads the files of an artifact."""
    return (chosen.reads == "GGUF") == (model_folder / GGUF_FILE).is_file()


def launch_spec(chosen: Engine, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
    """How to start an engine on an artifact.

    Raises:
        EngineFailed: it does not read the artifact's files, or the line has a flag that is not passed on.
    """
    if not serves(chosen, model_folder):
        raise EngineFailed(
            f"{plan.engine} serves {chosen.reads}, and this artifact is none.",
            f"Name {SCHEMES_THAT_IT_READS[chosen.reads]} under `schemes:`, or another engine under `engine:`, in the "
            "line's file.",
            where=str(model_folder),
        )
    return chosen.launch(plan, model_folder, host, port)
