"""Prove a GGUF: compare the written file with the recipe and the release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.quantize.coverage import SIZE_TOLERANCE, Coverage
from tasks.quantize.gguf.metadata import disagreement
from tasks.quantize.gguf.recipe import GgufRecipe, PlannedTensor
from tasks.quantize.tensors import StoredTensor, opened, read_part, read_tensors
from tasks.source.gguf.reader import GGUF_FILE, GgufFile, GgufTensor, read_gguf, read_rows
from tasks.source.gguf.tensor_types import OF_SAFETENSORS, TensorType
from weighbridge.errors import QuantizationUncovered

BLOCK_BYTES = 16 * 2**20
# Half of the smallest positive float16: a smaller scale is written as zero.
_SMALLEST = 2.0**-25


def check_coverage(recipe: GgufRecipe, folder: Path, source: Path) -> Coverage:
    """Compare a written GGUF with its recipe.

    Args:
        recipe: of the file.
        folder: with the written file.
        source: the release.

    Raises:
        QuantizationUncovered: a tensor or setting differs from the recipe; the first is named.
        QuantizationFailed: the file is missing, truncated or damaged.
    """
    path = folder / GGUF_FILE
    file = read_gguf(path)
    _check_tensors(recipe, file)
    wrong = disagreement(recipe, file, source)
    if wrong:
        raise _uncovered(*wrong)
    written = path.stat().st_size
    # Without the header: the converter may pad the vocabulary to any length.
    values = written - int(file.reader.data_offset)
    if abs(values - recipe.values_bytes) > SIZE_TOLERANCE * recipe.values_bytes:
        raise _uncovered(f"the tensors take {values:,} bytes where the plan says {recipe.values_bytes:,}", "size")
    _check_values(recipe, file, {tensor.name: tensor for tensor in read_tensors(source)})
    planned = len(recipe.layers)
    return Coverage(
        planned=planned,
        found=planned,
        share_of_linear_bytes=sum(layer.source_bytes for layer in recipe.layers) / recipe.linear_bytes,
        predicted_bytes=recipe.predicted_bytes,
        written_bytes=written,
    )


def _check_tensors(recipe: GgufRecipe, file: GgufFile) -> None:
    """Check that each planned tensor is present once, with its type and shape, and no other tensor."""
    written: dict[str, GgufTensor] = {}
    for tensor in file.tensors:
        if tensor.name in written:
            raise _uncovered(f"{tensor.name} was written twice", tensor.name)
        written[tensor.name] = tensor
    problems = {planned.name: _problem(planned, written.get(planned.name)) for planned in recipe.tensors}
    wrong = {name: problem for name, problem in problems.items() if problem}
    if wrong:
        layers = {layer.name for layer in recipe.layers}
        found = len(layers - set(wrong))
        first, problem = next(iter(wrong.items()))
        raise _uncovered(f"{found} of {len(layers)} planned tensors are quantized; {first}: {problem}", first)
    extra = sorted(set(written) - set(problems))
    if extra:
        raise _uncovered(f"{extra[0]} was not planned", extra[0])


def _problem(planned: PlannedTensor, tensor: GgufTensor | None) -> str:
    if tensor is None:
        return "it is missing"
    # GGUF drops leading dimensions of 1, such as that of a gate with one row.
    if (tensor.kind.name, _significant_shape(tensor.shape)) != (planned.kind, _significant_shape(planned.shape)):
        return f"it is {tensor.kind.name} {list(tensor.shape)}, not {planned.kind} {list(planned.shape)}"
    return ""


def _significant_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _check_values(recipe: GgufRecipe, file: GgufFile, source: Mapping[str, StoredTensor]) -> None:
    """Check that no scale or value is infinite or NaN, and that a block is zero only if the release's is."""
    planned = {tensor.name: tensor for tensor in recipe.tensors}
    with opened(file.path) as opened_file:
        for tensor in file.tensors:
            zeros = _zero_blocks(opened_file, tensor)
            sources = [source[name] for name in planned[tensor.name].sources]
            if zeros and zeros > sum(_small_blocks(part, tensor.kind) for part in sources):
                raise _uncovered(
                    f"{tensor.name}: {zeros:,} blocks have a zero scale where the release has weights", tensor.name
                )


def _zero_blocks(file: int, tensor: GgufTensor) -> int:
    """Number of blocks of a quantized tensor whose scales are all zero; 0 for a tensor of floats.

    Raises:
        QuantizationUncovered: a scale or value is infinite or NaN.
    """
    import numpy as np

    kind, zeros = tensor.kind, 0
    step = max(1, BLOCK_BYTES // kind.row_bytes(tensor.shape[-1]))
    for first in range(0, tensor.rows, step):
        data = np.frombuffer(read_rows(file, tensor, first, min(step, tensor.rows - first)), np.uint8)
        if not kind.is_quantized:
            values = data.view(np.float32 if kind.name == "f32" else np.float16)
            if kind.name != "bf16" and not np.isfinite(values).all():
                raise _uncovered(f"{tensor.name}: a value is infinite or not a number", tensor.name)
            continue
        blocks = data.reshape(-1, kind.block_bytes)
        scales = np.stack([blocks[:, at : at + 2].copy().view(np.float16)[:, 0] for at in kind.scales])
        if not np.isfinite(scales).all():
            raise _uncovered(f"{tensor.name}: a scale is infinite or not a number", tensor.name)
        zeros += int((scales == 0).all(axis=0).sum())
    return zeros


def _small_blocks(tensor: StoredTensor, kind: TensorType) -> int:
    """Number of blocks of a source's tensor whose scale is too small for float16."""
    import numpy as np

    from tasks.quantize.gguf.floats import to_float32

    bound = np.float32(kind.reach * _SMALLEST * 2)
    rows, columns = int(np.prod(tensor.shape[:-1])), tensor.shape[-1]
    row_bytes, small = tensor.size_bytes // rows, 0
    step = max(1, BLOCK_BYTES // row_bytes)
    with opened(tensor.file) as file:
        for first in range(0, rows, step):
            data = read_part(file, tensor, first * row_bytes, min(step, rows - first) * row_bytes)
            values = to_float32(data, OF_SAFETENSORS[tensor.dtype]).reshape(-1, columns // kind.values, kind.values)
            small += int((np.abs(values).max(axis=-1) < bound).sum())
    return small


def _uncovered(what: str, where: str) -> QuantizationUncovered:
    return QuantizationUncovered(
        f"The GGUF is not the one that was planned: {what}.",
        "Serve the release as bf16 or by another scheme, and report its architecture; nothing was kept.",
        where=where,
    )
