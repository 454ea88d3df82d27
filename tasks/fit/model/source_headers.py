"""The tensors of a release at its source: one or two ranged reads for the header of each weight file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tasks.source.headers import Tensor, header_length, parse_header
from tasks.source.pinned import Source
from tasks.source.provider import Provider
from tasks.source.published import refused
from tasks.source.source_file import SourceFile

AT_ONCE = 8
"""Concurrent requests for headers."""
FIRST_BYTES = 100_000
"""Of the first request for a file, in which most headers end; huggingface_hub's number."""
MAX_FILES = 2000
"""Files of weights; the largest known releases have 300."""


def tensors_of_source(provider: Provider, source: Source) -> tuple[Tensor, ...]:
    """Read the headers of all weight files of a pinned release.

    Raises:
        SourceUnreachable, SourceUnknown: the source did not answer, or no longer has the files.
        SourceDamaged: a file is not in safetensors format.
        SourceRefused: the release has more files, or larger headers, than any real one.
    """
    files = [file for file in source.files if file.is_weights]
    if len(files) > MAX_FILES:
        raise refused(source.short, f"it has {len(files):,} files of weights, more than {MAX_FILES:,}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(tensor for found in pool.map(partial(_header, provider, source), files) for tensor in found)


def _header(provider: Provider, source: Source, file: SourceFile) -> list[Tensor]:
    name = f"{file.path} of {source.short}"
    first = provider.read(source, file, FIRST_BYTES, first_byte=0)
    end = 8 + header_length(name, first[:8], file.size_bytes)
    header = first[8:end]
    if end > FIRST_BYTES:
        rest = end - FIRST_BYTES
        header += provider.read(source, file, rest, first_byte=FIRST_BYTES)
    return [placed.tensor for placed in parse_header(name, header, file.size_bytes)]
