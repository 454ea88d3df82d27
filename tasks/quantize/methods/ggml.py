"""ggml: round block by block as llama.cpp does, without data, tensor by tensor.

llama.cpp's converter first writes the release in its own numbers; then each tensor is read, rounded and written in
turn. Peak memory is the larger of the converter's (its import of torch and one tensor) and one quantized tensor with
a few blocks of rows. What it does not do: weigh columns by an importance matrix.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from tasks.quantize.gguf.convert import convert, link_release
from tasks.quantize.gguf.floats import to_float32
from tasks.quantize.gguf.ggml import quantize_rows
from tasks.quantize.gguf.recipe import GgufRecipe
from tasks.quantize.process.job import Job
from tasks.quantize.tensors import opened
from tasks.source.gguf.reader import GGUF_FILE, GgufFile, GgufTensor, read_gguf, read_rows
from tasks.source.gguf.tensor_types import TENSOR_TYPES, TensorType

BLOCK_VALUES = 2 * 2**20
"""Weights that a thread rounds at once."""
CONVERTED = "converted.gguf"
_OF_READER = ("GGUF.", "general.architecture")
_FILE_TYPE, _VERSION = "general.file_type", "general.quantization_version"


def quantize(job: Job, layer_done: Callable[[], None]) -> int:
    """Write the job's GGUF and its `config.json`.

    Args:
        job: of the process; `job.companions` has the tokenizer.
        layer_done: called once for each quantized tensor: half of the calls during conversion, half during writing.

    Returns:
        0: it uses no calibration text.
    """
    assert isinstance(job.recipe, GgufRecipe)
    steps = _Progress(job.recipe, layer_done)
    converted = job.out.parent / CONVERTED
    job.out.mkdir(parents=True, exist_ok=True)
    links = link_release(job.companions or job.source, job.out.parent / "shown")
    convert(links, converted, job.recipe.dtype, job.recipe.model_name, steps.converted)
    rewrite(read_gguf(converted), job.out / GGUF_FILE, job.recipe, steps.written)
    converted.unlink()
    shutil.copyfile(job.source / "config.json", job.out / "config.json")
    return 0


def rewrite(source: GgufFile, out: Path, recipe: GgufRecipe, written: Callable[[], None]) -> None:
    """Write a file's tensors in the recipe's types; tensors that are not in the recipe are copied.

    Args:
        source: the unquantized file.
        out: the file to write.
        recipe: the types.
        written: called after each tensor.
    """
    kinds = {tensor.name: TENSOR_TYPES[tensor.kind] for tensor in recipe.tensors}
    writer = GGUFWriter(out, recipe.architecture)
    _copy_metadata(source, writer, recipe)
    for tensor in source.tensors:
        kind = kinds.get(tensor.name, tensor.kind)
        _add_tensor_info(writer, tensor, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with opened(source.path) as file, ThreadPoolExecutor(workers) as pool:
        for tensor in source.tensors:
            writer.write_tensor_data(_values(file, tensor, kinds.get(tensor.name, tensor.kind), pool))
            written()
    writer.close()
    out.chmod(0o644)


def _copy_metadata(source: GgufFile, writer: GGUFWriter, recipe: GgufRecipe) -> None:
    """Copy the converter's metadata, with the file's type corrected."""
    for key, field in source.reader.fields.items():
        if key.startswith(_OF_READER) or key in (_FILE_TYPE, _VERSION):
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(recipe.mixture.file_type)
    # ggml's version of block layouts (GGML_QNT_VERSION in ggml.h), unchanged since 2023.
    writer.add_quantization_version(2)


def _add_tensor_info(writer: GGUFWriter, tensor: GgufTensor, kind: TensorType) -> None:
    # For block types the writer expects the row's size in bytes.
    shape = (*tensor.shape[:-1], kind.row_bytes(tensor.shape[-1])) if kind.is_quantized else tensor.shape
    size = kind.size_bytes(tensor.shape)
    values = np.uint8 if kind.is_quantized else np.float32 if kind.name == "f32" else np.float16
    writer.add_tensor_info(tensor.name, shape, np.dtype(values), size, raw_dtype=GGMLQuantizationType(kind.number))


def _values(file: int, tensor: GgufTensor, kind: TensorType, pool: ThreadPoolExecutor) -> np.ndarray:
    """A tensor's bytes in its target type."""
    columns = tensor.shape[-1]
    out = np.empty((tensor.rows, kind.row_bytes(columns)), np.uint8)
    step = max(1, BLOCK_VALUES // columns)

    def block(first: int) -> None:
        count = min(step, tensor.rows - first)
        data = read_rows(file, tensor, first, count)
        part = out[first : first + count]
        if kind == tensor.kind:
            part[:] = np.frombuffer(data, np.uint8).reshape(part.shape)
            return
        rows = to_float32(data, tensor.kind).reshape(count, columns)
        if kind.is_quantized:
            quantize_rows(rows, kind, part)
        else:
            part[:] = rows.astype(np.float16 if kind.name == "f16" else np.float32).view(np.uint8)

    # Rows are rounded independently, so the bytes do not depend on the number of threads.
    list(pool.map(block, range(0, tensor.rows, step)))
    return out


class _Progress:
    """Progress in tensors: the first half by converted bytes, the second by written tensors."""

    def __init__(self, recipe: GgufRecipe, layer_done: Callable[[], None]) -> None:
        self._recipe, self._layer_done = recipe, layer_done
        self._reported = self._written = 0

    def converted(self, size_bytes: int) -> None:
        """Update the converted bytes."""
        self._report(len(self._recipe.layers) * min(1.0, size_bytes / self._recipe.converted_bytes) / 2)

    def written(self) -> None:
        """Count a written tensor."""
        self._written += 1
        self._report(len(self._recipe.layers) * (1 + self._written / len(self._recipe.tensors)) / 2)

    def _report(self, layers: float) -> None:
        while self._reported < int(layers):
            self._reported += 1
            self._layer_done()
