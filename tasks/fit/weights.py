"""Bytes of a model's weights under a scheme, exactly, from safetensors headers: nothing else is downloaded.

What stays as published in every scheme: embeddings, the head, norms and everything 1-D, the routers of
experts, vision and audio towers. The same rules quantize; the artifact's real size is checked afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tasks.fit.schemes import SchemeSize
from tasks.source.client import TIMEOUT_SECONDS, ask
from tasks.source.headers import Tensor, read_header
from tasks.source.hub import Source
from weighbridge.errors import ArchitectureUnknown, SourceDamaged
from weighbridge.settings import load_settings

AT_ONCE = 8
"""Headers asked for at the same time."""
KEPT = re.compile(
    r"(^|\.)(lm_head|embed_out|output)$"
    r"|(^|\.)(\w*embed\w*|wte|wpe|embeddings\.\w+)$"
    r"|norm\d*$|(^|\.)ln_\w+$"
    r"|(^|\.)(gate|router|shared_expert_gate|router\.\w+)$"
    r"|(^|\.)(vision|visual|audio|multi_modal|image)\w*\."
)
HEAD = re.compile(r"(^|\.)lm_head\.weight$")
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in)\.weight$")
FLOATS = {"BF16", "F16", "F32"}
SHAPE_BYTES = 16
WORD_BITS = 32


def tensors_of_folder(folder: Path) -> tuple[Tensor, ...]:
    """All tensors of the safetensors files in a folder.

    Raises:
        SourceDamaged: a file's header does not describe it.
    """
    return tuple(tensor for path in sorted(folder.glob("*.safetensors")) for tensor in read_header(path))


def tensors_of_hub(source: Source) -> tuple[Tensor, ...]:
    """All tensors of a pinned release, by one ranged request for each file of weights.

    Raises:
        SourceUnreachable, SourceUnknown: the Hub did not answer, or no longer knows the files.
        SourceDamaged: a file is no safetensors file.
    """
    paths = [file.path for file in source.files if file.is_weights]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(tensor for found in pool.map(partial(_header_of_hub, source), paths) for tensor in found)


def _header_of_hub(source: Source, path: str) -> list[Tensor]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    api = HfApi(endpoint=load_settings().hf_endpoint)
    try:
        header = ask(
            lambda: api.parse_safetensors_file_metadata(
                source.repo, path, revision=source.commit, timeout=TIMEOUT_SECONDS
            ),
            repo=source.repo,
            revision=source.commit,
        )
    except SafetensorsParsingError:
        raise SourceDamaged(
            f"{path} of {source.short} is no safetensors file.", "Choose another release, or tell its publisher."
        ) from None
    return [Tensor(name=name, shape=tuple(one.shape), dtype=one.dtype) for name, one in header.tensors.items()]


def is_quantized_by_schemes(tensor: Tensor) -> bool:
    """Whether a scheme touches this tensor: the weight of a Linear layer, or of fused experts."""
    if tensor.dtype not in FLOATS or KEPT.search(tensor.name.removesuffix(".weight")):
        return False
    if len(tensor.shape) == 3:
        return ".experts." in tensor.name
    return len(tensor.shape) == 2 and tensor.name.endswith(".weight")


def held_tensors(tensors: Iterable[Tensor], config: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an engine keeps: a head that is tied to the embedding is held once."""
    tensors = list(tensors)
    tied = config.get("tie_word_embeddings") and any(EMBEDDING.search(tensor.name) for tensor in tensors)
    return [tensor for tensor in tensors if not (tied and HEAD.search(tensor.name))]


def weights_bytes(tensors: Iterable[Tensor], scheme: SchemeSize) -> int:
    """Bytes of the weights under a scheme.

    Args:
        tensors: as published, each held once.
        scheme: from `scheme_size`.

    Raises:
        ArchitectureUnknown: no group size of the scheme divides a layer's width; the layer is named.
    """
    tensors = list(tensors)
    if scheme.weight_bits is None:
        return sum(tensor.size_bytes for tensor in tensors)
    group = _group_size(tensors, scheme)
    return sum(
        _quantized_bytes(tensor, scheme, group) if is_quantized_by_schemes(tensor) else tensor.size_bytes
        for tensor in tensors
    )


def dense_bytes(tensors: Iterable[Tensor], bytes_each: int) -> int:
    """Bytes of the weights when every number takes the same."""
    return sum(tensor.elements for tensor in tensors) * bytes_each


def _group_size(tensors: list[Tensor], scheme: SchemeSize) -> int | None:
    if not scheme.group_sizes:
        return None
    layers = [tensor for tensor in tensors if is_quantized_by_schemes(tensor)]
    for size in scheme.group_sizes:
        if all(layer.shape[-1] % size == 0 for layer in layers):
            return size
    odd = next(layer for layer in layers if layer.shape[-1] % scheme.group_sizes[-1])
    sizes = ", ".join(str(size) for size in scheme.group_sizes)
    raise ArchitectureUnknown(
        f"{scheme.name} needs a group size that divides every layer's width, and {odd.name} is {odd.shape[-1]} wide "
        f"(tried {sizes}).",
        "Leave this scheme out of the line; int8 has no groups.",
    )


def _quantized_bytes(tensor: Tensor, scheme: SchemeSize, group: int | None) -> int:
    assert scheme.weight_bits is not None
    width = tensor.shape[-1]
    rows = tensor.elements // width if width else 0
    row_bytes = width * scheme.weight_bits // 8
    if scheme.packed:
        row_bytes = -(-width // (WORD_BITS // scheme.weight_bits)) * (WORD_BITS // 8)
    scales = rows * (width // group if group else 1)
    return rows * row_bytes + scales * scheme.scale_bytes + (SHAPE_BYTES if scheme.packed else 0)
