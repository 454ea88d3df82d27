"""What the quantizing process is told, and what it says while it works."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.quantize.gguf.convert import gguf_versions
from tasks.quantize.gguf.recipe import METHOD as GGML
from tasks.quantize.gguf.recipe import GgufRecipe
from tasks.quantize.methods import STREAMING
from tasks.quantize.plan.recipe import Recipe
from weighbridge import errors
from weighbridge.errors import WeighbridgeError

DECIDING = ("llmcompressor", "compressed-tensors", "torch", "safetensors")
"""Packages whose versions decide an artifact's bytes."""
DECIDING_STREAMED = ("compressed-tensors", "numpy")
"""The same of a method without data: the arithmetic is our own, the other package's version stands in config.json."""


def deciding_versions(method: str) -> dict[str, str]:
    """Versions that the bytes of a method's artifacts depend on, by package."""
    if method == GGML:
        return gguf_versions()
    names = DECIDING_STREAMED if method in STREAMING else DECIDING
    return {name: version(name) for name in sorted(names)}


class Job(BaseModel):
    """One quantization, as the child process reads it from a file."""

    model_config = ConfigDict(frozen=True)

    source: Path
    """`config.json` and the weight files, nothing else."""
    out: Path
    recipe: Recipe | GgufRecipe
    identity: str = ""
    """Of source, recipe and versions: what an earlier process finished counts if its job had the same."""
    companions: Path | None = None
    """The release with its tokenizer, for methods that calibrate; others need none."""
    calibration: Path | None = None
    """A text to calibrate on; None for the project's own."""


class Failure(BaseModel):
    """A named error on its way from the child."""

    model_config = ConfigDict(frozen=True)

    code: str
    what: str
    next_step: str
    where: str

    @classmethod
    def of(cls, error: WeighbridgeError) -> Failure:
        """What another process needs to raise it again."""
        return cls(code=error.code, what=error.what, next_step=error.next_step, where=error.where)

    def error(self) -> WeighbridgeError:
        """The error; of this program's own classes only."""
        kind = getattr(errors, self.code, WeighbridgeError)
        known = isinstance(kind, type) and issubclass(kind, WeighbridgeError)
        return (kind if known else WeighbridgeError)(self.what, self.next_step, self.where)


class Message(BaseModel):
    """One line of the child's standard output: how far it is, and at the end what it used, or why it failed."""

    model_config = ConfigDict(frozen=True)

    layers_done: int
    peak_rss_bytes: int = 0
    """0 until the end, as are the next."""
    cpu_seconds: float = 0
    calibration_tokens: int = 0
    versions: dict[str, str] = {}
    """Of the packages that decided the bytes; empty until the end."""
    failure: Failure | None = None
