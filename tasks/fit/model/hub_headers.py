"""The tensors of a release on the Hub: one ranged request for the header of each weight file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tasks.source.client import TIMEOUT_SECONDS, Hub
from tasks.source.headers import Tensor
from tasks.source.hub import Source
from weighbridge.errors import SourceDamaged

AT_ONCE = 8
"""Concurrent requests for headers."""


def tensors_of_hub(hub: Hub, source: Source) -> tuple[Tensor, ...]:
    """Read the headers of all weight files of a pinned release.

    Raises:
        SourceUnreachable, SourceUnknown: the Hub did not answer, or no longer knows the files.
        SourceDamaged: a file is not in safetensors format.
    """
    paths = [file.path for file in source.files if file.is_weights]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(tensor for found in pool.map(partial(_header, hub, source), paths) for tensor in found)


def _header(hub: Hub, source: Source, path: str) -> list[Tensor]:
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        header = hub.call(
            lambda: hub.api.parse_safetensors_file_metadata(
                source.repo, path, revision=source.commit, timeout=TIMEOUT_SECONDS
            ),
            repo=source.repo,
            revision=source.commit,
        )
    except SafetensorsParsingError:
        raise SourceDamaged(
            f"{path} of {source.short} is not a safetensors file.", "Choose another release, or tell its publisher."
        ) from None
    return [Tensor(name=name, shape=tuple(entry.shape), dtype=entry.dtype) for name, entry in header.tensors.items()]
