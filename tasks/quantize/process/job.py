"""The quantizing process's input, `Job`, and its progress messages."""

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
"""The same for methods without data: the arithmetic is our own; the other version is written to config.json."""


def deciding_versions(method: str) -> dict[str, str]:
    """The package versions on which a method's output depends."""
    if method == GGML:
        return gguf_versions()
    names = DECIDING_STREAMED if method in STREAMING else DECIDING
    return {name: version(name) for name in sorted(names)}


class Job(BaseModel):
    """One quantization; the child process reads it from a file."""

    model_config = ConfigDict(frozen=True)

    source: Path
    """`config.json` and the weight files, nothing else."""
    out: Path
    recipe: Recipe | GgufRecipe
    identity: str = ""
    """Digest of source, recipe and versions; finished files of a job with the same identity are reused."""
    companions: Path | None = None
    """The release with its tokenizer, for methods that calibrate."""
    calibration: tuple[Path, ...] = ()
    """Files of the calibration text, for methods that calibrate."""


class ChildError(BaseModel):
    """A named error that the child sends to its parent."""

    model_config = ConfigDict(frozen=True)

    code: str
    what: str
    next_step: str
    where: str

    @classmethod
    def of(cls, error: WeighbridgeError) -> ChildError:
        """The message for an error."""
        return cls(code=error.code, what=error.what, next_step=error.next_step, where=error.where)

    def error(self) -> WeighbridgeError:
        """The error to raise, of Weighbridge's own classes only."""
        kind = getattr(errors, self.code, WeighbridgeError)
        known = isinstance(kind, type) and issubclass(kind, WeighbridgeError)
        return (kind if known else WeighbridgeError)(self.what, self.next_step, self.where)


class Message(BaseModel):
    """One line of the child's standard output: progress, and in the last line resources used or the error."""

    model_config = ConfigDict(frozen=True)

    layers_done: int
    peak_rss_bytes: int = 0
    """Set in the last line only, as are the next two."""
    cpu_seconds: float = 0
    calibration_tokens: int = 0
    versions: dict[str, str] = {}
    """Of the deciding packages; in the last line only."""
    failure: ChildError | None = None
