"""Whether two models fit into memory together, from the headers of their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.source.headers import Tensor, read_placed

USABLE_SHARE = 0.7
"""Share of the free memory for weights; the rest is for activations, logits and loading."""
FLOAT32_BYTES = 4
PACKED_WEIGHTS = 8
"""4-bit weights in an int32 of compressed-tensors' `weight_packed`; they are unpacked to run."""
ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2}


def fit_together(folders: Sequence[Path], device: str, dtype: str) -> bool:
    """Whether all models fit at once into the memory that is free now.

    Args:
        folders: models in safetensors.
        device: `cpu` or `cuda`.
        dtype: `float32`, or `auto` for each file's own.
    """
    return sum(loaded_bytes(folder, dtype) for folder in folders) <= USABLE_SHARE * _free_bytes(device)


def loaded_bytes(folder: Path, dtype: str) -> int:
    """Approximate memory of a loaded model in bytes; packed and 8-bit weights count as unpacked."""
    return sum(
        _tensor_bytes(placed.tensor, dtype) for path in folder.glob("*.safetensors") for placed in read_placed(path)
    )


def _tensor_bytes(tensor: Tensor, dtype: str) -> int:
    numbers, kind = tensor.elements, tensor.dtype
    if kind == "I32" and tensor.name.endswith("weight_packed"):
        numbers *= PACKED_WEIGHTS
        kind = "BF16"
    # A quantized layer is multiplied in the precision of its activations, however small it is stored.
    return numbers * (FLOAT32_BYTES if dtype == "float32" else max(ITEM_BYTES.get(kind, 2), 2))


def _free_bytes(device: str) -> int:
    if device == "cuda":
        import torch

        return int(sum(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())))
    import psutil

    return int(psutil.virtual_memory().available)
