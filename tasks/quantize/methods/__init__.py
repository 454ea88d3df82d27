"""Quantization methods, one file each; a scheme names those that suit it.

A method is a function `quantize(job, layer_done)` that returns the number of calibration tokens it used. It runs in a
separate process (`tasks/quantize/process/child.py`) and may import what it needs.
"""

from __future__ import annotations

from pathlib import Path

STREAMING = ("rtn",)
"""Methods that read each value once, refuse non-finite ones, and continue after finished files."""

WITHOUT_DATA = (*STREAMING, "ggml")
"""Methods without calibration text."""

FITTING = ("gptq", "smoothquant_gptq")
"""Methods that minimise a layer's error by its inputs' covariance, which needs more tokens than inputs."""


def method_names() -> tuple[str, ...]:
    """Names of all methods, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")))
