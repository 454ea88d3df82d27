"""What the quantizing process is told, and what it says while it works."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.quantize.plan import Recipe

DECIDING = ("llmcompressor", "compressed-tensors", "torch", "safetensors")
"""Packages whose versions decide an artifact's bytes."""


def deciding_versions() -> dict[str, str]:
    """Versions that an artifact's bytes depend on, by package."""
    return {name: version(name) for name in DECIDING}


class Job(BaseModel):
    """One quantization, as the child process reads it from a file."""

    model_config = ConfigDict(frozen=True)

    source: Path
    """`config.json` and the weight files, nothing else."""
    out: Path
    recipe: Recipe


class Message(BaseModel):
    """One line of the child's standard output: how far it is, and at the end what it used."""

    model_config = ConfigDict(frozen=True)

    layers_done: int
    peak_rss_bytes: int = 0
    """0 until the end, as is the next."""
    cpu_seconds: float = 0
    versions: dict[str, str] = {}
    """Of the packages that decided the bytes; empty until the end."""
