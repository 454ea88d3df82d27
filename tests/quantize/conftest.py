"""Tiny releases in separate stores, and real quantizations shared by a session."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from registry.installation import Installation
from registry.store import Artifact, Store
from tasks.quantize import quantize
from tests.quantize.quantize_support import COMMIT, stand_in, write_release


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny release; see `write_release`."""

    def make(hidden: int = 64, intermediate: int = 128, **changed: np.ndarray) -> Path:
        return write_release(tmp_path / "release", hidden, intermediate, **changed)

    return make


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store in a separate installation."""
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    return Store()


def adopt(store: Store, folder: Path) -> Artifact:
    """Put a release into the store."""
    return store.adopt(folder, line="tiny", scheme="bf16", repo="test/tiny", commit=COMMIT)


@pytest.fixture
def adopted(store: Store, release: Callable[..., Path]) -> Callable[..., Artifact]:
    """Write a tiny release and put it into the store."""

    def make(hidden: int = 64, intermediate: int = 128, **changed: np.ndarray) -> Artifact:
        return adopt(store, release(hidden, intermediate, **changed))

    return make


class Done(NamedTuple):
    """A real quantization with its store, artifact and progress."""

    store: Store
    source: Artifact
    artifact: Artifact
    progress: list[tuple[int, int]]

    @property
    def source_folder(self) -> Path:
        return self.store.path(self.source)

    @property
    def folder(self) -> Path:
        return self.store.path(self.artifact)


@pytest.fixture
def dying(tmp_path: Path) -> Callable[[int], AbstractContextManager[None]]:
    """Within the context, the real quantizing process kills itself when it starts the given layer (the first is 1)."""

    @contextmanager
    def at(layer: int) -> Iterator[None]:
        code = f"""
import os, signal, sys
from pathlib import Path
from tasks.quantize.process import child
from tasks.quantize.methods import rtn
real, begun = rtn._round, 0
def _round(*arguments):
    global begun
    begun += 1
    if begun == {layer}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)
rtn._round = _round
sys.exit(child.main(Path(sys.argv[-1])))
"""
        with pytest.MonkeyPatch.context() as patch:
            stand_in(tmp_path, patch, f"exec {sys.executable} -c '{code}' \"$@\"")
            yield

    return at


def _really(home: Path, scheme: str, hidden: int, intermediate: int) -> Iterator[Done]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHBRIDGE_HOME", str(home))
        store = Store()
        source = adopt(store, write_release(home / "release", hidden, intermediate))
        progress: list[tuple[int, int]] = []
        artifact = quantize(
            Installation.load(), source, scheme, progress=lambda done, total: progress.append((done, total))
        )
        yield Done(store, source, artifact, progress)


@pytest.fixture(scope="session")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A tiny Llama of width 64, really quantized to INT8."""
    yield from _really(tmp_path_factory.mktemp("int8"), "int8", 64, 128)


@pytest.fixture(scope="session")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A tiny Llama of width 96, which 64 does not divide, really quantized to INT4."""
    yield from _really(tmp_path_factory.mktemp("int4"), "int4", 96, 192)


@pytest.fixture
def staged() -> Callable[[Store], list[str]]:
    """Names of the entries in a store's staging folders."""
    return lambda store: [path.name for path in store.folder.glob("*/.staging/*")]
