"""rtn: round to nearest, without data, in blocks of rows.

Peak memory is the imports (60 MiB) plus about a dozen times a block of rows, whatever the size of tensors, files and
model: a laptop can quantize a terabyte if its disk is large enough. The method ignores activations; where that loses
too much accuracy, use one of the calibrated methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tasks.quantize.loader_config import write_config
from tasks.quantize.plan.recipe import Layer, Recipe
from tasks.quantize.process.job import Job
from tasks.quantize.process.shards import FinishedShards, Shard, ShardWriter, plan_shards, write_index
from tasks.quantize.rounding import NotFinite, Rounded, bits_of, round_rows
from tasks.quantize.tensors import INDEX, StoredTensor, not_finite_error, opened, read_part


def quantize(job: Job, layer_done: Callable[[], None]) -> int:
    """Write the job's quantized weights and its `config.json`; keep files that an earlier process finished.

    Args:
        job: of the process; `job.source` has the weights and `config.json` and nothing else.
        layer_done: called after each layer.

    Returns:
        0: it uses no calibration text.

    Raises:
        QuantizationFailed: the source has an infinite value or NaN, or is truncated.
        DiskFull: during writing.
    """
    recipe = job.recipe
    assert isinstance(recipe, Recipe)
    job.out.mkdir(parents=True, exist_ok=True)
    shards = plan_shards(recipe, job.source)
    finished = FinishedShards.load(job.out.parent, job.identity)
    _remove_unfinished(job.out, finished)
    for shard in shards:
        if finished.holds(job.out / shard.name):
            for _ in shard.layers:
                layer_done()
            continue
        with ShardWriter(shard, job.out) as writer:
            _write_shard(shard, recipe, writer, layer_done)
        finished.add(job.out / shard.name, job.out.parent)
    if (job.source / INDEX).is_file():
        write_index(job.out, shards)
    write_config(job.source, job.out, recipe)
    return 0


def _remove_unfinished(out: Path, finished: FinishedShards) -> None:
    """Remove the files of an earlier process except finished ones."""
    for path in out.iterdir():
        if path.is_file() and path.name not in finished.shards:
            path.unlink()


def _write_shard(shard: Shard, recipe: Recipe, writer: ShardWriter, layer_done: Callable[[], None]) -> None:
    for tensor in shard.kept:
        writer.copy(tensor)
    for layer, tensor in shard.layers:
        try:
            _round(layer, tensor, recipe, writer)
        except NotFinite:
            raise not_finite_error(tensor) from None
        layer_done()


def _round(layer: Layer, tensor: StoredTensor, recipe: Recipe, writer: ShardWriter) -> None:
    rows, columns = layer.shape
    weight = recipe.expected(layer)[0].name
    offsets = dict.fromkeys((weight, f"{layer.name}.weight_scale", f"{layer.name}.weight_zero_point"), 0)
    for rounded in _blocks(tensor, rows, columns, recipe):
        for name, part in zip(offsets, (rounded.weight, rounded.scale, rounded.zero_point), strict=True):
            if part is not None:
                writer.write(name, np.ascontiguousarray(part).data, offsets[name])
                offsets[name] += part.nbytes
    if recipe.format == "pack-quantized":
        writer.write(f"{layer.name}.weight_shape", np.array([rows, columns], "<i8").tobytes(), 0)


def _blocks(tensor: StoredTensor, rows: int, columns: int, recipe: Recipe) -> Iterator[Rounded]:
    bits = bits_of(tensor.dtype)
    step = recipe.layout.rows_at_once(columns)
    with opened(tensor.file) as file:
        for first in range(0, rows, step):
            height = min(step, rows - first)
            row_bytes = columns * bits.itemsize
            data = read_part(file, tensor, first * row_bytes, height * row_bytes)
            values = np.frombuffer(data, bits).reshape(height, columns)
            yield round_rows(values, tensor.dtype, recipe.layout, is_float=recipe.weight_type == "float")
