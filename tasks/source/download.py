"""Downloading a pinned release into the store: resumable, every byte verified, there whole or not at all.

huggingface_hub's own HTTP client does the fetching. Its `hf_hub_download` no longer resumes across
processes (1.33 writes to a file of a name of its own and removes it when it fails), so the layer below it,
`http_get`, is given our partial file and its size. That layer knows no Xet, which is why none is used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from registry.store import GIB, Artifact, Store
from tasks.source.admission import escapes
from tasks.source.client import ask
from tasks.source.headers import Tensor, damaged, read_header
from tasks.source.hub import INDEX, Source, SourceFile
from weighbridge.errors import DiskFull, SourceDamaged, SourceRefused
from weighbridge.settings import load_settings

Progress = Callable[[int, int], None]

PARTIAL = ".partial"
ATTEMPTS = 3
"""Calls of `http_get`, which itself tries six times without a new byte before it gives up."""
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
        progress: told (bytes done, bytes in all) as they arrive.

    Raises:
        SourceUnreachable, SourceUnknown: the Hub did not answer, or no longer knows the files.
        SourceDamaged: a file arrived twice as something else than the Hub said.
        DiskFull: there is not enough room.
        SourceRefused: a file's name leads out of its folder.
    """
    store = store or Store()
    folder = store.staging(line_name, f"source-{source.commit}")
    # The lock is the process's: a killed one leaves none behind.
    with FileLock(folder.with_suffix(".lock")):
        if found := _in_store(source, line_name, store):
            shutil.rmtree(folder, ignore_errors=True)
            return found
        folder.mkdir(exist_ok=True)
        fetched = _fetch_all(source, folder, store, progress)
        tensors = _check_weights(source, folder)
        _remove_strangers(source, folder)
        facts: dict[str, object] = {"made_by": "download", "hub": load_settings().hf_endpoint, "fetched_bytes": fetched}
        facts |= {"licence": source.licence, "ignored": list(source.ignored)}
        scheme = published_scheme(source.config, tensors)
        return store.adopt(folder, line=line_name, scheme=scheme, repo=source.repo, commit=source.commit, facts=facts)


def published_scheme(config: dict[str, Any], tensors: list[Tensor]) -> str:
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


def _fetch_all(source: Source, folder: Path, store: Store, progress: Progress | None) -> int:
    """Bring every file into the folder, verified; returns the bytes that came over the network."""
    for file in source.files:
        if escapes(file.path):
            raise SourceRefused(
                f"The file name {file.path!r} leads out of its folder.", "Choose another release.", where=source.repo
            )
    done = sum(_bytes_here(folder, file) for file in source.files)
    store.require_free(source.size_bytes - done + SPARE_BYTES, f"{source.short} ({source.size_bytes / GIB:.2f} GiB)")
    fetched = 0

    def arrived(change: int) -> None:
        nonlocal done, fetched
        done, fetched = done + change, fetched + max(change, 0)
        if progress:
            progress(done, source.size_bytes)

    # Small files first: what they tell of the weights is known before those are fetched.
    for file in sorted(source.files, key=lambda file: (file.is_weights, file.path)):
        if file.is_weights:
            _check_index(source, folder)
        _fetch(source, file, folder, arrived)
    arrived(0)
    return fetched


def _bytes_here(folder: Path, file: SourceFile) -> int:
    whole, partial = folder / file.path, folder / PARTIAL / file.path
    path = whole if whole.is_file() else partial
    return path.stat().st_size if path.is_file() else 0


def _fetch(source: Source, file: SourceFile, folder: Path, arrived: Callable[[int], None]) -> None:
    """Bring one file, a second time if the first was damaged."""
    whole, partial = folder / file.path, folder / PARTIAL / file.path
    if whole.is_file():
        if not _problem(whole, file):
            return
        arrived(-whole.stat().st_size)
        whole.unlink()
    partial.parent.mkdir(parents=True, exist_ok=True)
    problem = ""
    for _ in range(2):
        if partial.is_file() and partial.stat().st_size > file.size_bytes:
            arrived(-partial.stat().st_size)
            partial.unlink()
        problem = _receive(source, file, partial, arrived) or _problem(partial, file)
        if not problem:
            whole.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(whole)
            return
        arrived(-partial.stat().st_size)
        partial.unlink()
    raise SourceDamaged(
        f"{file.path} of {source.short} arrived twice as something else than the Hub says: {problem}.",
        "Try again later or through another network; if it stays so, tell the repository's publisher.",
        where=load_settings().hf_endpoint,
    )


def _receive(source: Source, file: SourceFile, partial: Path, arrived: Callable[[int], None]) -> str:
    """Append what is missing to a partial file; returns what is wrong with what came, or nothing."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(source.repo, file.path, revision=source.commit, endpoint=load_settings().hf_endpoint)
    # Compressed answers have no ranges and no size of their own.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}

    class Bar(_Bar):
        report = staticmethod(arrived)

    def call() -> None:
        with partial.open("ab") as opened:
            begin = opened.tell()
            http_get(
                url,
                opened,
                resume_size=begin,
                headers=headers,
                expected_size=file.size_bytes,
                displayed_filename=file.path,
                tqdm_class=Bar,  # any class with its methods will do (1.33, utils/tqdm.py)
            )

    try:
        ask(call, repo=source.repo, revision=source.commit, attempts=ATTEMPTS)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(
                f"The disk became full while {file.path} arrived.",
                "Free some disk and run the command again; what is downloaded is kept.",
                where=str(partial.parent),
            ) from None
        if error.errno is not None:
            raise
        return "its size is another"  # huggingface_hub's consistency check is an OSError without a number
    return ""


class _Bar:
    """What `http_get` draws on, as a counter."""

    report: Callable[[int], None]

    def __init__(self, **_: object) -> None: ...

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, change: int) -> None:
        """Called with the bytes of each block; negative when the Hub began again from the start."""
        type(self).report(change)


def _problem(path: Path, file: SourceFile) -> str:
    """What is wrong with a file, or nothing: size, and SHA-256 or git's blob id."""
    size = path.stat().st_size
    if size != file.size_bytes:
        return f"{size} bytes instead of {file.size_bytes}"
    digest, expected = (
        (hashlib.sha256(), file.sha256) if file.sha256 else (hashlib.sha1(f"blob {size}\0".encode()), file.git_oid)
    )
    with path.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return "" if digest.hexdigest() == expected else f"{digest.name} {digest.hexdigest()} instead of {expected}"


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
    except (ValueError, TypeError, KeyError, AttributeError):
        raise damaged(path, "it is no index of shards") from None
    if missing := sorted(set(index.values()) - {file.path for file in source.files}):
        raise damaged(path, f"it names {', '.join(missing)}, which {source.short} does not hold")
    return index


def _check_weights(source: Source, folder: Path) -> list[Tensor]:
    """Hold every safetensors header against its file, and all of them against the index."""
    tensors: list[Tensor] = []
    placed: dict[str, str] = {}
    for file in source.files:
        if file.is_weights:
            held = read_header(folder / file.path)
            tensors += held
            placed |= {tensor.name: file.path for tensor in held}
    astray = sorted(name for name, file in _check_index(source, folder).items() if placed.get(name) != file)
    if astray:
        raise damaged(folder / INDEX, f"{len(astray)} tensors are not where it says, {astray[0]} first")
    return tensors


def _remove_strangers(source: Source, folder: Path) -> None:
    """Remove what is not the release's: partial files, and files of an earlier idea of what is needed."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    known = {file.path for file in source.files}
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            path.unlink()
