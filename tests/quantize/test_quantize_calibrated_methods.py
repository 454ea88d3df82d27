"""Every calibrated method on a tiny model: its files match the recipe, load, and are closer to the release than rtn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.quantize.coverage import check_coverage
from tasks.quantize.plan.recipe import Recipe
from tasks.quantize.tensors import read_tensors

# Importing llm-compressor takes twenty seconds of processor, minutes on a machine that is busy with other tests.
pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).resolve().parents[2]
LAYERS = 14
WRITTEN = (
    "gptq-int4",
    "gptq-int4-asym",
    "gptq-int8-w8a16",
    "awq-int4",
    "smoothquant-int8",
    "autoround-int4",
)


class Calibrated(NamedTuple):
    """All runs of `calibrate_tiny.py`."""

    folder: Path
    report: dict[str, dict[str, Any]]

    def model(self, name: str) -> Path:
        return self.folder / name / "model"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    folder = tmp_path_factory.mktemp("calibrated")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WEIGHBRIDGE_ROOT": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).with_name("calibrate_tiny.py")
    done = subprocess.run([sys.executable, script, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return Calibrated(folder, json.loads(done.stdout.splitlines()[-1]))


def _bits(folder: Path) -> dict[str, bytes]:
    return {
        tensor.name: tensor.file.read_bytes()[tensor.start : tensor.start + tensor.size_bytes]
        for tensor in read_tensors(folder)
    }


@pytest.mark.parametrize("name", WRITTEN)
def test_a_method_writes_the_planned_tensors(calibrated: Any, name: str) -> None:
    report = calibrated.report[name]
    recipe = Recipe.model_validate(report["recipe"])
    coverage = check_coverage(recipe, calibrated.model(name), calibrated.folder / "release")
    assert coverage.found == coverage.planned == LAYERS
    assert coverage.share_of_linear_bytes == 1
    assert report["layers_done"] == LAYERS
    assert report["left"] == ["model"], "no scratch stays behind"


@pytest.mark.parametrize(
    ("name", "farthest"),
    [
        ("gptq-int4", 0.4),
        ("gptq-int4-asym", 0.4),
        ("awq-int4", 0.5),
        ("autoround-int4", 0.5),
        ("gptq-int8-w8a16", 0.03),
        ("smoothquant-int8", 0.05),
    ],
)
def test_the_artifact_loads_in_transformers_and_is_close_to_the_release(
    calibrated: Any, name: str, farthest: Any
) -> None:
    assert calibrated.report[name]["finite"]
    assert 0 < calibrated.report[name]["moved"] < farthest


def test_gptq_is_closer_to_the_release_than_rounding_to_nearest(calibrated: Any) -> None:
    assert calibrated.report["gptq-int4"]["moved"] < 0.8 * calibrated.report["rtn-int4"]["moved"]


@pytest.mark.parametrize("name", ["gptq-int4", "gptq-int8-w8a16", "autoround-int4"])
def test_methods_that_do_not_scale_keep_every_other_byte(calibrated: Any, name: str) -> None:
    before, after = _bits(calibrated.folder / "release"), _bits(calibrated.model(name))
    kept = [tensor for tensor in before if tensor in after and "proj" not in tensor]
    assert len(kept) == 6
    assert all(before[tensor] == after[tensor] for tensor in kept)


@pytest.mark.parametrize("name", ["awq-int4", "smoothquant-int8"])
def test_methods_that_scale_change_norms_and_nothing_else(calibrated: Any, name: str) -> None:
    before, after = _bits(calibrated.folder / "release"), _bits(calibrated.model(name))
    changed = {tensor for tensor in before if "proj" not in tensor and before[tensor] != after[tensor]}
    assert changed
    assert all("layernorm" in tensor for tensor in changed)


@pytest.mark.parametrize(("name", "tokens"), [("rtn-int4", 0), ("gptq-int4", 1024), ("awq-int4", 1024)])
def test_a_method_reports_its_calibration_tokens(calibrated: Any, name: str, tokens: Any) -> None:
    assert calibrated.report[name]["tokens"] == tokens


def test_same_release_and_text_give_the_same_bytes(calibrated: Any) -> None:
    assert _bits(calibrated.model("gptq-int4")) == _bits(calibrated.model("gptq-int4-again"))


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("no-tokenizer", "QuantizationFailed", "needs the release's tokenizer"),
        ("empty-text", "CalibrationInvalid", "is empty"),
        ("other-layers", "QuantizationUncovered", "gone is the first, are only in the release's files"),
        ("other-tokenizer", "QuantizationFailed", "makes token 5,"),
        ("autoround-int4-asym", "QuantizationFailed", "does not import zero points"),
    ],
)
def test_an_invalid_job_is_refused_with_a_named_error_and_leaves_nothing(
    calibrated: Any, name: str, code: str, says: str
) -> None:
    report = calibrated.report[name]
    assert report.get("error") == code
    assert says in report["what"]
    assert report["left"] == []
