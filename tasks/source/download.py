"""Downloading a pinned release into the store: resumable, every byte verified, there whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry.store import Artifact, Store
from tasks.source.admission import name_problems
from tasks.source.fetch import PARTIAL, Fetch, Progress
from tasks.source.headers import Tensor, damaged
from tasks.source.hub import INDEX, Source
from weighbridge.errors import SourceRefused
from weighbridge.settings import load_settings
from weighbridge.units import GIB

SPARE_BYTES = 64 * 2**20
"""Kept free beside the download, for the manifest and whoever else writes."""
SCHEME_OF_DTYPE = {
    "bfloat16": "bf16", "BF16": "bf16", "float16": "fp16", "F16": "fp16", "float32": "fp32", "F32": "fp32"
}  # fmt: skip


def download(source: Source, line_name: str, store: Store | None = None, progress: Progress | None = None) -> Artifact:
    """Fetch a release's files and make an artifact of them.

    A killed download goes on where it was; a release that is in the store already is taken from there.

    Args:
        source: from `pin`, and admitted.
        line_name: the line that it is for.
        store: the installation's by default.
        progress: told (bytes done, bytes in all) as they arrive; calls come one at a time, from several threads.

    Raises:
        SourceUnreachable, SourceUnknown: the Hub did not answer, or no longer knows the files.
        SourceStalled: the Hub began to answer and then sent nothing, again and again.
        SourceDamaged: a file arrived twice as something else than the Hub said, or is published broken.
        DiskFull: there is not enough room.
        SourceRefused: a file's name leads out of its folder, or two names are one on some disks.
    """
    if wrong := list(name_problems(file.path for file in source.files)):
        raise SourceRefused(f"{source.short} is refused: {'; '.join(wrong)}.", "Choose another release.", source.repo)
    store = store or Store()
    key = f"source-{source.commit}"
    with store.building(line_name, key):
        folder = store.staging(line_name, key)
        if found := _in_store(source, line_name, store):
            shutil.rmtree(folder, ignore_errors=True)
            return found
        fetch = _fetch_all(source, folder, store, progress)
        _remove_strangers(source, folder)
        facts: dict[str, object] = {"made_by": "download", "hub": load_settings().hf_endpoint}
        facts |= {"fetched_bytes": fetch.fetched_bytes, "licence": source.licence, "ignored": list(source.ignored)}
        return store.adopt(
            folder,
            line=line_name,
            scheme=published_scheme(source.config, [one for held in fetch.tensors.values() for one in held]),
            repo=source.repo,
            commit=source.commit,
            facts=facts,
            known_sha256=fetch.sha256,
        )


def published_scheme(config: dict[str, Any], tensors: Iterable[Tensor]) -> str:
    """What a release's weights are as they come: bf16, fp16, fp32, or the method that quantized them.

    Args:
        config: config.json.
        tensors: the files' tensors; the kind that takes most bytes decides where the config names none.
    """
    if quantized := config.get("quantization_config"):
        return str(quantized.get("quant_method", "quantized"))
    dtype = config.get("dtype") or config.get("torch_dtype")
    if dtype not in SCHEME_OF_DTYPE:
        sizes: dict[str, int] = {}
        for tensor in tensors:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
        dtype = max(sizes, key=lambda one: sizes[one], default="")
    return SCHEME_OF_DTYPE.get(dtype, dtype.lower() or "empty")


def _in_store(source: Source, line_name: str, store: Store) -> Artifact | None:
    """The artifact that an earlier download of the same files made."""
    expected = {file.path: file.size_bytes for file in source.files}
    for artifact in store.artifacts(line_name):
        if (artifact.repo, artifact.commit) == (source.repo, source.commit):
            held = {entry.path: entry.size_bytes for entry in store.files(artifact)}
            if store.facts(artifact).get("made_by") == "download" and held == expected:
                return artifact
    return None


def _fetch_all(source: Source, folder: Path, store: Store, progress: Progress | None) -> Fetch:
    """Bring every file into the folder, verified."""
    fetch = Fetch(source, folder, progress)
    store.require_free(fetch.missing_bytes + SPARE_BYTES, f"{source.short} ({source.size_bytes / GIB:.2f} GiB)")
    # Small files first: what they tell of the weights is known before those are fetched.
    fetch.bring([file for file in source.files if not file.is_weights])
    index = _check_index(source, folder)
    fetch.bring([file for file in source.files if file.is_weights])
    _check_places(folder, index, fetch.tensors)
    return fetch


def _check_index(source: Source, folder: Path) -> dict[str, str]:
    """Read the shards' index, if there is one: tensor → file.

    Raises:
        SourceDamaged: it is no index, or names a file that the commit lacks.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        index = {str(name): str(file) for name, file in json.loads(path.read_bytes())["weight_map"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise damaged(path, "it is no index of shards") from None
    if missing := sorted(set(index.values()) - {file.path for file in source.files}):
        raise damaged(path, f"it names {', '.join(missing)}, which {source.short} does not hold")
    return index


def _check_places(folder: Path, index: dict[str, str], tensors: dict[str, tuple[Tensor, ...]]) -> None:
    """Hold the files' tensors against the index, and against each other.

    Raises:
        SourceDamaged: a tensor is not where the index says, or in two files, of which engines load one or the other.
    """
    placed: dict[str, str] = {}
    for path, held in sorted(tensors.items()):
        for tensor in held:
            if tensor.name in placed:
                raise damaged(folder / path, f"it holds {tensor.name}, as {placed[tensor.name]} does")
            placed[tensor.name] = path
    astray = sorted(name for name, path in index.items() if placed.get(name) != path)
    if astray:
        raise damaged(folder / INDEX, f"{len(astray)} tensors are not where it says, {astray[0]} first")


def _remove_strangers(source: Source, folder: Path) -> None:
    """Remove what is not the release's: partial files, and files of an earlier idea of what is needed."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    known = {file.path for file in source.files}
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            path.unlink()
