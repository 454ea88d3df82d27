"""The tensors of a release on the Hub: one or two ranged requests for the header of each weight file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tasks.source.answers import read_file
from tasks.source.client import Hub
from tasks.source.headers import Tensor, header_length, parse_header
from tasks.source.hub import Source, SourceFile
from tasks.source.published import refused

AT_ONCE = 8
"""Concurrent requests for headers."""
FIRST_BYTES = 100_000
"""Of the first request for a file, in which most headers end; huggingface_hub's number."""
MAX_FILES = 2000
"""Files of weights; the largest known releases have 300."""


def tensors_of_hub(hub: Hub, source: Source) -> tuple[Tensor, ...]:
    """Read the headers of all weight files of a pinned release.

    Raises:
        SourceUnreachable, SourceUnknown: the Hub did not answer, or no longer knows the files.
        SourceDamaged: a file is not in safetensors format.
        SourceRefused: the release has more files, or larger headers, than any real one.
    """
    files = [file for file in source.files if file.is_weights]
    if len(files) > MAX_FILES:
        raise refused(source.short, f"it has {len(files):,} files of weights, more than {MAX_FILES:,}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(tensor for found in pool.map(partial(_header, hub, source), files) for tensor in found)


def _header(hub: Hub, source: Source, file: SourceFile) -> list[Tensor]:
    name = f"{file.path} of {source.short}"
    first = read_file(hub, source.repo, source.commit, file.path, FIRST_BYTES, first_byte=0)
    end = 8 + header_length(name, first[:8], file.size_bytes)
    header = first[8:end]
    if end > FIRST_BYTES:
        rest = end - FIRST_BYTES
        header += read_file(hub, source.repo, source.commit, file.path, rest, first_byte=FIRST_BYTES)
    return [placed.tensor for placed in parse_header(name, header, file.size_bytes)]
