"""Estimate the memory, disk and time of a quantization, and refuse it if memory is short."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.quantize.calibration import target_tokens
from tasks.quantize.gguf.recipe import GgufRecipe
from tasks.quantize.methods import STREAMING
from tasks.quantize.plan.recipe import Recipe
from weighbridge.errors import MemoryShort
from weighbridge.units import GIB

STREAMING_IMPORTS_BYTES = 96 * 2**20
"""Of the data-free process with Python, numpy and pydantic; measured 55 MiB (benchmarks/quantize.py)."""
CALIBRATED_IMPORTS_BYTES = int(1.2 * GIB)
"""torch, transformers, llm-compressor; measured 0.9 GiB."""
BLOCK_BYTES_PER_VALUE = 40
"""Of a block while it is rounded: bits, float32 values, masks, codes; measured 14 to 26."""
CALIBRATED_BYTES_PER_WEIGHT = 12
"""Of a decoder layer, held in memory as float32 twice and packed once; Hessians (in² × 4) come on top."""
CALIBRATED_SCRATCH_BYTES_PER_WEIGHT = 4
"""Changed weights are kept on the disk as float32 until they are written."""
SAMPLE_TOKENS, COPIES_OF_ACTIVATIONS = 32 * 512, 3
"""Calibration tokens at least, whose hidden states pass from layer to layer as float32 (methods/gptq.py)."""
CPU_NANOSECONDS_PER_WEIGHT = {"int-quantized": 4.0, "pack-quantized": 6.0, "float-quantized": 6.0}
NANOSECONDS_PER_BYTE = 1.5
"""To read, or to write and hash, one byte on a disk of 1 GB/s."""
CALIBRATED_NANOSECONDS_PER_WEIGHT = 3300.0
"""GPTQ of SmolLM2: 349 CPU-seconds for 106 million weights (docs/evidence/quantization.md)."""
SLOWER_NANOSECONDS_PER_WEIGHT = {"autoround": 8000.0}
"""Of slower methods: 850 CPU-seconds for the same model."""
CONVERTER_IMPORTS_BYTES = int(0.6 * GIB)
"""torch and transformers without a model; measured 0.5 GiB (docs/explanation/gguf.md)."""
CONVERTER_BYTES_PER_BYTE = 5
"""Of the largest tensor, which the converter widens to float32 and packs; measured 4."""
CONVERTER_SECONDS = 20.0
_DECODER_LAYER = re.compile(r".*?\.\d+(?=\.)")
CGROUPS = tuple(
    tuple(Path("/sys/fs/cgroup") / name for name in names)
    for names in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    )
)
"""Files with limit, use and its breakdown, of control groups version 2 and 1."""


class Resources(BaseModel):
    """Upper estimates of what a quantization takes."""

    model_config = ConfigDict(frozen=True)

    memory_bytes: int
    """Peak resident memory of the quantizing process."""
    disk_bytes: int
    """Free space in the staging folder."""
    seconds: float
    """On two cores."""

    def __str__(self) -> str:
        minutes = f"{self.seconds / 60:.0f} min" if self.seconds >= 120 else f"{self.seconds:.0f} s"
        return f"{self.memory_bytes / GIB:.2f} GiB of memory, {self.disk_bytes / GIB:.2f} GiB of disk, about {minutes}"


def estimate_resources(
    recipe: Recipe | GgufRecipe, *, companions_bytes: int = 0, text_tokens: int = SAMPLE_TOKENS
) -> Resources:
    """Estimate the resources that a recipe takes.

    Args:
        recipe: from `plan`.
        companions_bytes: size of the files copied beside the weights.
        text_tokens: upper estimate of the calibration text, for methods that use one.
    """
    if isinstance(recipe, GgufRecipe):
        return _gguf_resources(recipe, companions_bytes)
    weights = sum(layer.shape[0] * layer.shape[1] for layer in recipe.layers)
    source_bytes = recipe.kept_bytes + sum(layer.source_bytes for layer in recipe.layers)
    scratch = 0
    moving = (source_bytes + recipe.predicted_bytes) * NANOSECONDS_PER_BYTE
    if recipe.method in STREAMING:
        block = max(recipe.layout.rows_at_once(layer.shape[1]) * layer.shape[1] for layer in recipe.layers)
        memory = STREAMING_IMPORTS_BYTES + BLOCK_BYTES_PER_VALUE * block
        computing = weights * CPU_NANOSECONDS_PER_WEIGHT[recipe.format]
    else:
        tokens = max(SAMPLE_TOKENS, min(target_tokens(recipe, SAMPLE_TOKENS), text_tokens))
        memory = CALIBRATED_IMPORTS_BYTES + _calibrated_bytes(recipe, tokens)
        scratch = CALIBRATED_SCRATCH_BYTES_PER_WEIGHT * weights
        each = SLOWER_NANOSECONDS_PER_WEIGHT.get(recipe.method, CALIBRATED_NANOSECONDS_PER_WEIGHT)
        computing = weights * each * tokens / SAMPLE_TOKENS
    return Resources(
        memory_bytes=memory,
        disk_bytes=recipe.predicted_bytes + companions_bytes + scratch,
        seconds=round((computing + moving) / 1e9 + 1, 1),
    )


def _calibrated_bytes(recipe: Recipe, tokens: int) -> int:
    """Bytes of the largest decoder layer with its Hessians, of hidden states, and of kept weights as float32."""
    bytes_by_block = Counter[str]()
    for layer in recipe.layers:
        rows, columns = layer.shape
        block = _DECODER_LAYER.match(layer.name)
        bytes_by_block[block[0] if block else layer.name] += (
            CALIBRATED_BYTES_PER_WEIGHT * rows * columns + 4 * columns**2
        )
    hidden = min(layer.shape[1] for layer in recipe.layers)
    states = tokens * COPIES_OF_ACTIVATIONS * 4 * hidden
    return max(bytes_by_block.values()) + states + 2 * recipe.kept_bytes


def _gguf_resources(recipe: GgufRecipe, companions_bytes: int) -> Resources:
    """Resources of llama.cpp's converter, whose unquantized file is kept beside the result, and of ggml."""
    largest = max(layer.source_bytes for layer in recipe.layers)
    computing = sum(layer.source_bytes for layer in recipe.layers) / 2 * recipe.mixture.nanoseconds_per_weight
    moving = (3 * recipe.converted_bytes + recipe.predicted_bytes) * NANOSECONDS_PER_BYTE
    return Resources(
        memory_bytes=CONVERTER_IMPORTS_BYTES + CONVERTER_BYTES_PER_BYTE * largest,
        disk_bytes=recipe.predicted_bytes + recipe.converted_bytes + companions_bytes,
        seconds=round((computing + moving) / 1e9 + CONVERTER_SECONDS, 1),
    )


def require_memory(required: Resources, what: str) -> None:
    """Check free memory before the quantizing process starts.

    Raises:
        MemoryShort: the machine, or its container's limit, has less free memory.
    """
    free = available_bytes()
    if free < required.memory_bytes:
        raise MemoryShort(
            f"{what} needs {required.memory_bytes / GIB:.2f} GiB of memory and {free / GIB:.2f} GiB are free.",
            "Stop other programs, raise the container's limit, or choose the method rtn, which needs the least memory.",
        )


def available_bytes() -> int:
    """Memory available to a new process: of the machine, or within the container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used, parts in CGROUPS:
        if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
            # Cached files count as used, but are evicted when memory is requested.
            fields = dict(line.split() for line in parts.read_text().splitlines()) if parts.is_file() else {}
            cached = int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
            free = min(free, max(0, int(text) - int(used.read_text()) + cached))
    return free
