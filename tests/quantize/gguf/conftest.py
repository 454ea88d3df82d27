"""One real conversion of a tiny release to each scheme, for all tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tasks.quantize.gguf import GGUF_FILE, GgufRecipe, link_release, make_gguf_recipe
from tasks.quantize.gguf.convert import convert
from tasks.quantize.methods import ggml
from tasks.quantize.process.job import Job
from tasks.schemes import scheme
from tests.support.shared_folder import shared_folder
from tests.support.tiny_gguf import write_release


class Made(NamedTuple):
    """A release, its recipe and the written folder."""

    source: Path
    recipe: GgufRecipe
    folder: Path
    progress: list[int]

    @property
    def file(self) -> Path:
        return self.folder / GGUF_FILE


def _make(home: Path, name: str) -> Made:
    source = write_release(home / "release")
    recipe = make_gguf_recipe(source, scheme(name), "org/tiny")
    progress: list[int] = []
    job = Job(source=source, out=home / "model", recipe=recipe)
    ggml.quantize(job, lambda: progress.append(1))
    return Made(source, recipe, job.out, progress)


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unquantized GGUF of the release, by the real converter."""

    def make(home: Path) -> None:
        source = link_release(write_release(home / "release"), home / "source")
        convert(source, home / "converted.gguf", "BF16", "org/tiny", lambda size: None)

    return shared_folder(tmp_path_factory, "converted", make) / "converted.gguf"


def _quickly(home: Path, name: str, converted: Path) -> Made:
    """The same without a second run of the converter, which takes ten seconds and writes the same bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ggml, "convert", lambda shown, out, *others: shutil.copyfile(converted, out))
        return _make(home, name)


@pytest.fixture(scope="session")
def q8_0(tmp_path_factory: pytest.TempPathFactory, converted: Path) -> Made:
    return _quickly(tmp_path_factory.mktemp("q8-0"), "q8-0", converted)


@pytest.fixture(scope="session")
def q4_k_m(tmp_path_factory: pytest.TempPathFactory, converted: Path) -> Made:
    return _quickly(tmp_path_factory.mktemp("q4-k-m"), "q4-k-m", converted)


@pytest.fixture
def copied(q4_k_m: Made, tmp_path: Path) -> Callable[[], Made]:
    """Copies of the Q4_K_M file and of its release, to damage."""

    def make() -> Made:
        shutil.copytree(q4_k_m.folder, tmp_path / "model", copy_function=shutil.copyfile)
        shutil.copytree(q4_k_m.source, tmp_path / "release", copy_function=shutil.copyfile)
        return q4_k_m._replace(folder=tmp_path / "model", source=tmp_path / "release")

    return make
