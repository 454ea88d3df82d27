"""Write output files whose tensor offsets are known from the recipe before the first weight is read.

A file is written part by part at those offsets, in memory that does not grow with the model. It appears under its name
only when it is complete, synced and hashed. After a kill, the next run keeps the finished files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ConfigDict

from registry.store.artifact import sha256_of
from tasks.quantize.plan.layouts import ExpectedTensor
from tasks.quantize.plan.recipe import Layer, Recipe
from tasks.quantize.process.folders import disk_full_errors
from tasks.quantize.tensors import (
    INDEX,
    StoredTensor,
    data_bytes,
    finite,
    item_bytes,
    not_finite_error,
    opened,
    read_part,
    read_tensors,
)
from weighbridge.errors import DiskFull
from weighbridge.files import READABLE, write_whole

PARTIAL = ".partial"
LEDGER = "finished.json"
COPY_BYTES = 4 * 2**20


class FinishedShard(BaseModel):
    """A complete output file."""

    model_config = ConfigDict(frozen=True)

    size_bytes: int
    sha256: str


class FinishedShards(BaseModel):
    """The finished files of a job, as a ledger on disk."""

    identity: str
    """Of the job: source, recipe, versions. Files of another job are ignored."""
    shards: dict[str, FinishedShard] = {}

    @classmethod
    def load(cls, folder: Path, identity: str) -> FinishedShards:
        """Read the ledger; empty if there is none, or if it is of another job."""
        path = folder / LEDGER
        if path.is_file():
            try:
                found = cls.model_validate_json(path.read_bytes())
            except ValueError:
                # A damaged ledger counts as empty.
                return cls(identity=identity)
            if found.identity == identity:
                return found
        return cls(identity=identity)

    def holds(self, file: Path) -> bool:
        """Whether a file is finished and unchanged; reads and hashes it."""
        shard = self.shards.get(file.name)
        return (
            shard is not None
            and file.is_file()
            and file.stat().st_size == shard.size_bytes
            and sha256_of(file) == shard.sha256
        )

    def add(self, file: Path, ledger_folder: Path) -> None:
        """Record a file as finished."""
        self.shards[file.name] = FinishedShard(size_bytes=file.stat().st_size, sha256=sha256_of(file))
        write_whole(ledger_folder / LEDGER, self.model_dump_json())


class Shard(BaseModel):
    """One weight file of the source, and the output file made of it."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    name: str
    layers: tuple[tuple[Layer, StoredTensor], ...]
    """To be quantized, in file order, so that the source is read sequentially."""
    kept: tuple[StoredTensor, ...]
    parts: tuple[ExpectedTensor, ...]
    """All tensors of the output, in file order."""

    @property
    def data_bytes(self) -> int:
        """Bytes of the output's tensors."""
        return sum(data_bytes(part.dtype, part.shape) for part in self.parts)

    def header(self) -> bytes:
        """The safetensors header, preceded by its length."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for part in self.parts:
            end = at + data_bytes(part.dtype, part.shape)
            entries[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": [at, end]}
            at = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def plan_shards(recipe: Recipe, source: Path) -> list[Shard]:
    """Plan one output file for each weight file of the source."""
    layers = {f"{layer.name}.weight": layer for layer in recipe.layers}
    by_file: dict[Path, list[StoredTensor]] = {}
    for tensor in read_tensors(source):
        by_file.setdefault(tensor.file, []).append(tensor)
    return [_shard(recipe, file.name, tensors, layers) for file, tensors in sorted(by_file.items())]


def _shard(recipe: Recipe, name: str, tensors: list[StoredTensor], layers: dict[str, Layer]) -> Shard:
    planned = [tensor for tensor in sorted(tensors, key=lambda tensor: tensor.start) if tensor.name in layers]
    kept = [tensor for tensor in tensors if tensor.name not in layers]
    parts = [ExpectedTensor(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape) for tensor in kept]
    parts += [part for tensor in planned for part in recipe.expected(layers[tensor.name])]
    # In the order of safetensors' own writer: widest types first, so that each tensor is aligned; then by name.
    parts.sort(key=lambda part: (-item_bytes(part.dtype), part.name))
    return Shard(
        name=name,
        layers=tuple((layers[tensor.name], tensor) for tensor in planned),
        kept=tuple(kept),
        parts=tuple(parts),
    )


def write_index(folder: Path, shards: Iterable[Shard]) -> None:
    """Write the index of tensors by file, as transformers reads it."""
    shards = list(shards)
    index = {
        "metadata": {"total_size": sum(shard.data_bytes for shard in shards)},
        "weight_map": dict(sorted((part.name, shard.name) for shard in shards for part in shard.parts)),
    }
    write_whole(folder / INDEX, json.dumps(index, indent=2) + "\n", mode=READABLE)


class ShardWriter:
    """Writes an output file under a temporary name until it is complete.

    Args:
        shard: the planned content.
        folder: the destination.

    Raises:
        DiskFull: from any method, when the disk is full; finished files stay.
    """

    def __init__(self, shard: Shard, folder: Path) -> None:
        self._path, self._draft = folder / shard.name, folder / f"{shard.name}.{os.getpid()}{PARTIAL}"
        self._header = shard.header()
        self._places, at = {}, len(self._header)
        for part in shard.parts:
            self._places[part.name] = at
            at += data_bytes(part.dtype, part.shape)
        self._size = at
        self._file = -1

    def __enter__(self) -> ShardWriter:
        self._file = os.open(self._draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, READABLE)
        try:
            with disk_full_errors(self._path):
                # Reserve the whole file before the first weight is rounded, if the system supports it.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self._file, 0, self._size)
                os.pwrite(self._file, self._header, 0)
        except (OSError, DiskFull):
            self._discard()
            raise
        return self

    def write(self, name: str, data: memoryview | bytes, offset: int) -> None:
        """Write bytes of a tensor, `offset` bytes after its start."""
        at = self._places[name] + offset
        view = memoryview(data).cast("B")
        with disk_full_errors(self._path):
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written

    def copy(self, tensor: StoredTensor) -> None:
        """Copy a tensor of the source unchanged.

        Raises:
            QuantizationFailed: it holds an infinite value or NaN, or its file is truncated.
        """
        with opened(tensor.file) as file:
            for at in range(0, tensor.size_bytes, COPY_BYTES):
                data = read_part(file, tensor, at, min(COPY_BYTES, tensor.size_bytes - at))
                if not finite(data, tensor.dtype):
                    raise not_finite_error(tensor)
                self.write(tensor.name, data, at)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            with disk_full_errors(self._path):
                os.fsync(self._file)
        except (OSError, DiskFull):
            self._discard()
            raise
        os.close(self._file)
        self._draft.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _discard(self) -> None:
        os.close(self._file)
        self._draft.unlink(missing_ok=True)
