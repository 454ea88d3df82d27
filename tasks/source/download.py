"""Download a pinned release into the store: resumable, every byte verified, complete or not at all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry.store import Artifact, Input, Store, provenance_of
from tasks.source.admission import name_problems
from tasks.source.fetch import PARTIAL, Fetcher, Progress
from tasks.source.headers import Tensor, damaged
from tasks.source.pinned import INDEX, Source
from tasks.source.provider import Provider
from tasks.source.published.tokenizer import MAX_TOKENIZER_BYTES, read_index
from tasks.source.tokenizer_trial import try_tokenizer
from weighbridge.documents import read_bytes
from weighbridge.errors import ArtifactDamaged, ArtifactUnsigned, DocumentInvalid, SourceRefused
from weighbridge.source_urls import url_of
from weighbridge.units import GIB

logger = logging.getLogger(__name__)

SPARE_BYTES = 64 * 2**20
"""Kept free beside the download, for the manifest and other processes."""
SCHEME_OF_DTYPE = {
    "bfloat16": "bf16", "BF16": "bf16", "float16": "fp16", "F16": "fp16", "float32": "fp32", "F32": "fp32"
}  # fmt: skip


def download(
    provider: Provider,
    source: Source,
    line_name: str,
    store: Store,
    progress: Progress | None = None,
    invocation: str = "",
) -> Artifact:
    """Download a release's files and make an artifact of them.

    A killed download is resumed. A release that is whole in the store is returned from there, each byte verified.

    Args:
        provider: of the release.
        source: from `pin`, and admitted.
        line_name: the artifact's line.
        store: the destination.
        progress: called with (bytes done, bytes in total), one call at a time, from several threads.
        invocation: id of the flow run, for the record.

    Raises:
        SourceUnreachable, SourceUnknown: the source did not answer, or no longer has the files.
        SourceStalled: the source repeatedly began to answer and then sent nothing.
        SourceDamaged, SourceChanged: a file twice differed from its description, or is published broken.
        DiskFull: the disk has not enough space.
        SourceRefused: a file's name leads out of its folder, two names are equal on some disks, or the tokenizer
            cannot be loaded and used within limits.
    """
    if wrong := list(name_problems(file.path for file in source.files)):
        raise SourceRefused(f"{source.short} is refused: {'; '.join(wrong)}.", "Choose another release.", source.repo)
    key = f"source-{source.commit}"
    with store.building(line_name, key):
        folder = store.staging(line_name, key)
        if found := _in_store(source, line_name, store):
            shutil.rmtree(folder, ignore_errors=True)
            return found
        fetcher = _fetch_all(provider, source, folder, store, progress)
        _remove_other_files(source, folder)
        facts: dict[str, object] = {"made_by": "download", **provider.manifest_fields}
        facts |= {"content": source.content}
        facts |= {"fetched_bytes": fetcher.fetched_bytes, "licence": source.licence, "ignored": list(source.ignored)}
        return store.adopt(
            folder,
            line=line_name,
            scheme=published_scheme(
                source.config, [tensor for tensors in fetcher.tensors.values() for tensor in tensors]
            ),
            repo=source.repo,
            commit=source.commit,
            facts=facts,
            provenance=provenance_of(
                "download",
                parameters={"source": url_of(source.repo), "commit": source.commit, "ignored": list(source.ignored)},
                inputs=[Input(uri=source.uri, digest=provider.digest_of(source))],
                versions=provider.versions,
                invocation=invocation,
            ),
            known_sha256=fetcher.sha256,
        )


def published_scheme(config: dict[str, Any], tensors: Iterable[Tensor]) -> str:
    """The scheme of a release as published: bf16, fp16, fp32, or the method that quantized it.

    Args:
        config: config.json.
        tensors: of all files; without a dtype in the config, the dtype with most bytes decides.
    """
    if quantized := config.get("quantization_config"):
        return str(quantized.get("quant_method") or "quantized")
    dtype = config.get("dtype") or config.get("torch_dtype")
    if dtype not in SCHEME_OF_DTYPE:
        sizes: dict[str, int] = {}
        for tensor in tensors:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
        dtype = max(sizes, key=lambda name: sizes[name], default="")
    return SCHEME_OF_DTYPE.get(dtype, dtype.lower() or "empty")


def _in_store(source: Source, line_name: str, store: Store) -> Artifact | None:
    """The artifact of an earlier download of the same files, every byte of it verified, or None.

    A damaged one is no obstacle: the release is downloaded again, and `adopt` puts the fresh copy in its place.
    """
    expected = {(file.path, file.size_bytes): file.sha256 for file in source.files}
    for name, digest in store.listed(line_name):
        try:
            manifest = store.manifest(name, digest)
            held = {(entry.path, entry.size_bytes): entry.sha256 for entry in manifest.files}
            artifact = manifest.artifact
            if (artifact.repo, artifact.commit) != (source.repo, source.commit):
                continue
            # The Hub gives no SHA-256 of small files. That of the manifest is of what was verified by git's hash.
            known = {key: sha256 or held.get(key) for key, sha256 in expected.items()}
            if held == known and manifest.facts.get("made_by") == "download":
                store.path(artifact)
                return artifact
        except (ArtifactDamaged, ArtifactUnsigned) as error:
            logger.warning("Downloading again: %s", error.what)
    return None


def _fetch_all(provider: Provider, source: Source, folder: Path, store: Store, progress: Progress | None) -> Fetcher:
    """Fetch every file into the folder, verified."""
    fetcher = Fetcher(provider, source, folder, progress)
    store.require_free(fetcher.missing_bytes + SPARE_BYTES, f"{source.short} ({source.size_bytes / GIB:.2f} GiB)")
    # Small files first, so that a wrong index is found before the weights are fetched.
    fetcher.fetch([file for file in source.files if not file.is_weights])
    index = _check_index(source, folder)
    try_tokenizer(folder, source.short)
    fetcher.fetch([file for file in source.files if file.is_weights])
    _check_tensor_files(folder, index, fetcher.tensors)
    return fetcher


def _check_index(source: Source, folder: Path) -> dict[str, str]:
    """Read the shards' index: file by tensor; empty without an index.

    Raises:
        SourceDamaged: the index is invalid, or names a file that the commit lacks.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        index = read_index(read_bytes(path, MAX_TOKENIZER_BYTES), INDEX)
    except (SourceRefused, DocumentInvalid) as error:
        raise damaged(path, f"it is not an index of shards ({error.what.removesuffix('.')})") from None
    if missing := sorted(set(index.values()) - {file.path for file in source.files}):
        raise damaged(path, f"it names {', '.join(missing)}, which {source.short} does not hold")
    return index


def _check_tensor_files(folder: Path, index: dict[str, str], tensors: dict[str, tuple[Tensor, ...]]) -> None:
    """Compare the files' tensors with the index and with each other.

    Raises:
        SourceDamaged: a tensor is not in the indexed file, or is in two files, of which engines load either.
    """
    file_of: dict[str, str] = {}
    for path, held in sorted(tensors.items()):
        for tensor in held:
            if tensor.name in file_of:
                raise damaged(folder / path, f"it holds {tensor.name}, as {file_of[tensor.name]} does")
            file_of[tensor.name] = path
    misplaced = sorted(name for name, path in index.items() if file_of.get(name) != path)
    if misplaced:
        raise damaged(folder / INDEX, f"{len(misplaced)} tensors are not where it says, {misplaced[0]} first")


def _remove_other_files(source: Source, folder: Path) -> None:
    """Remove partial files, and files that an earlier version of this program downloaded too."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    known = {file.path for file in source.files}
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            path.unlink()
