"""The coverage check reads only files: each way in which written weights can be wrong is found and named."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.quantize import Coverage, Recipe, check_coverage, quantization_record
from weighbridge.errors import QuantizationFailed, QuantizationUncovered

if TYPE_CHECKING:
    from tests.quantize.conftest import Done

LAYER = "model.layers.1.mlp.up_proj"

# The first test waits for a real quantization.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def check(int4: Done, tmp_path: Path) -> Callable[[], Coverage]:
    """Check the copy in `written` that a test has tampered with."""
    record = quantization_record(int4.artifact, int4.store)
    assert record is not None
    recipe = record.recipe
    assert isinstance(recipe, Recipe)
    return lambda: check_coverage(recipe, tmp_path / "written", int4.source_folder)


@pytest.fixture
def written(int4: Done, tmp_path: Path) -> Path:
    """A copy of a real INT4 model, to tamper with."""
    # Without the modes of the store's files, which are read-only.
    return Path(shutil.copytree(int4.folder, tmp_path / "written", copy_function=shutil.copyfile))


def _open(folder: Path) -> tuple[dict[str, Any], bytearray]:
    raw = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :])


def _close(folder: Path, header: dict[str, Any], data: bytes | bytearray) -> None:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def _change_scale(folder: Path, two_bytes: bytes) -> None:
    header, data = _open(folder)
    at = header[f"{LAYER}.weight_scale"]["data_offsets"][0]
    data[at : at + 2] = two_bytes
    _close(folder, header, data)


def test_a_sound_model_passes_and_counts_exactly(written: Path, check: Callable[..., Any]) -> None:
    coverage = check()
    assert coverage.found == coverage.planned == 14
    assert coverage.predicted_bytes == pytest.approx(coverage.written_bytes, rel=0.01)


@pytest.mark.parametrize(
    ("two_bytes", "says"),
    [(b"\x00\x00", "zero"), (b"\x00\x80", "zero"), (b"\xc0\x7f", "not a number"), (b"\x80\x7f", "infinite")],
)
def test_scales_must_be_finite_and_not_zero(
    written: Path, check: Callable[..., Any], two_bytes: Any, says: str
) -> None:
    _change_scale(written, two_bytes)
    with pytest.raises(QuantizationUncovered, match=f"13 of 14 .*{LAYER}.*{says}"):
        check()


@pytest.mark.parametrize("part", ["weight_packed", "weight_scale", "weight_shape"])
def test_a_missing_part_is_named(written: Path, check: Callable[..., Any], part: str) -> None:
    header, data = _open(written)
    del header[f"{LAYER}.{part}"]
    _close(written, header, data)
    with pytest.raises(QuantizationUncovered, match=f"{LAYER}.{part} is missing"):
        check()


def test_a_layer_of_another_shape_or_type_is_named(written: Path, check: Callable[..., Any]) -> None:
    header, data = _open(written)
    header[f"{LAYER}.weight_packed"]["shape"] = [96, 24]
    _close(written, header, data)
    with pytest.raises(QuantizationUncovered, match=r"is I32 \[96, 24\], not I32 \[192, 12\]"):
        check()


def test_a_duplicate_layer_is_named(written: Path, check: Callable[..., Any]) -> None:
    header, data = _open(written)
    header[f"{LAYER}.weight"] = header["model.embed_tokens.weight"]
    _close(written, header, data)
    with pytest.raises(QuantizationUncovered, match="present twice"):
        check()


def test_a_packed_embedding_is_named(written: Path, check: Callable[..., Any]) -> None:
    header, data = _open(written)
    header["model.embed_tokens.weight_packed"] = header.pop("model.embed_tokens.weight")
    _close(written, header, data)
    with pytest.raises(QuantizationUncovered, match=r"model\.embed_tokens\.weight was to stay as published"):
        check()


def test_an_untied_head_is_named(written: Path, check: Callable[..., Any]) -> None:
    header, data = _open(written)
    header["lm_head.weight"] = header["model.embed_tokens.weight"]
    _close(written, header, data)
    with pytest.raises(QuantizationUncovered, match=r"lm_head\.weight was not planned"):
        check()


def test_a_tensor_in_two_files_is_named(written: Path, check: Callable[..., Any]) -> None:
    shutil.copy(written / "model.safetensors", written / "more.safetensors")
    index = {"weight_map": {"a": "model.safetensors", "b": "more.safetensors"}}
    (written / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(QuantizationUncovered, match="was written twice"):
        check()


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ("quant_method", lambda config: config.update(quant_method="gptq")),
        ("format", lambda config: config.update(format="dense")),
        ("ignore", lambda config: config.update(ignore=[])),
        ("groups", lambda config: config.update(config_groups={})),
        ("weight bits", lambda config: config["config_groups"]["config_group_0"]["weights"].update(num_bits=8)),
        ("group size", lambda config: config["config_groups"]["config_group_0"]["weights"].update(group_size=64)),
        ("targets", lambda config: config["config_groups"]["config_group_0"].update(targets=["re:.*nothing"])),
    ],
)
def test_config_must_say_what_the_tensors_are(
    written: Path, check: Callable[..., Any], setting: str, change: Any
) -> None:
    config = json.loads((written / "config.json").read_text())
    change(config["quantization_config"])
    (written / "config.json").write_text(json.dumps(config))
    with pytest.raises(QuantizationUncovered, match=f"config.json says {setting}"):
        check()


def test_a_size_far_off_is_refused(written: Path, check: Callable[..., Any]) -> None:
    with (written / "model.safetensors").open("ab") as file:
        file.write(bytes(50_000))
    with pytest.raises(QuantizationUncovered, match="where the plan says"):
        check()


def test_a_missing_file_is_named(written: Path, check: Callable[..., Any]) -> None:
    (written / "model.safetensors").unlink()
    with pytest.raises(QuantizationFailed, match="no safetensors weights"):
        check()
