"""The proof by loading: what transformers makes of an artifact decides, not its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.quantize import quantization_record, scheme
from tasks.quantize.loading.parent import prove_loading
from tasks.quantize.plan.recipe import Recipe, make_recipe
from tests.quantize.conftest import Done
from weighbridge.errors import QuantizationUncovered

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def written(int8: Done, tmp_path: Path) -> tuple[Path, Recipe]:
    """A copy of a real artifact, to be damaged, and its recipe."""
    out = tmp_path / "written"
    shutil.copytree(int8.folder, out)
    for file in out.iterdir():
        file.chmod(0o644)
    return out, make_recipe(int8.source_folder, scheme("int8"))


def test_an_artifact_is_loaded_and_answers(int8: Done) -> None:
    record = quantization_record(int8.artifact, int8.store)
    assert record and record.loading
    assert (record.loading.loaded, record.loading.answered, record.loading.why) == (True, True, "")


def _ignore(folder: Path, names: list[str]) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["ignore"] = names
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["lm_head", r"re:.*\.o_proj$"], "unexpected keys"),
        (["lm_head", "model.layers.0"], ""),
        ([], "missing keys|is quantized|modules are quantized"),
    ],
)
def test_a_loader_that_ignores_other_modules_than_the_plan_is_found(
    int8: Done, written: tuple[Path, Recipe], tmp_path: Path, names: list[str], what: str
) -> None:
    folder, recipe = written
    _ignore(folder, names)
    if not what:
        assert prove_loading(folder, int8.source_folder, recipe, tmp_path / "log").loaded
        return
    with pytest.raises(QuantizationUncovered, match=what) as refused:
        prove_loading(folder, int8.source_folder, recipe, tmp_path / "log")
    assert "`ignore`" in refused.value.next_step


def test_an_architecture_that_transformers_does_not_know_is_told(release: Callable[..., Path], tmp_path: Path) -> None:
    folder = release()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard", "architectures": ["Unheard"]}))
    loading = prove_loading(folder, folder, make_recipe(folder, scheme("int8")), tmp_path / "log")
    assert not loading.loaded and "cannot load the release itself" in loading.why
