"""Ways to find the rounded numbers, one file each; a scheme names those that suit it.

A method is a function `quantize(job, layer_done)` that returns how many tokens of calibration text it watched; it runs
in a process of its own (`tasks/quantize/process/child.py`) and may import what it likes.
"""

from __future__ import annotations

from pathlib import Path

STREAMING = ("rtn",)
"""Methods that read each value once, refuse those that are not finite, and go on from the files that are finished."""


WITHOUT_DATA = (*STREAMING, "ggml")
"""Methods that read no calibration text."""


FITTING = ("gptq", "smoothquant_gptq")
"""Methods that fit a layer's errors to how its inputs hang together, which fewer tokens than inputs do not tell."""


def method_names() -> tuple[str, ...]:
    """Names of all methods, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")))
