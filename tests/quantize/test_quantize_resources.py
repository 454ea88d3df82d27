"""Resource estimates: sufficient, not much too high, and a refusal if resources are short."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry.installation import Installation
from registry.store import Artifact, Store
from tasks.quantize import quantize, scheme
from tasks.quantize.plan import resources
from tasks.quantize.plan.recipe import Recipe, make_recipe
from tasks.quantize.plan.resources import available_bytes, estimate_resources
from tasks.quantize.plan.targets import Layer
from tests.quantize.quantize_support import write_sharded
from weighbridge.errors import DiskFull, MemoryShort

if TYPE_CHECKING:
    from tests.quantize.conftest import Done


def _recipe(columns: int, rows: int, layers: int, name: str = "int4") -> Recipe:
    """A model of any size, of which there are no files."""
    chosen = scheme(name)
    return Recipe(
        scheme=name,
        method="rtn",
        format=chosen.format,
        weight_bits=chosen.weight_bits,
        activation_bits=chosen.activation_bits,
        group_size=128 if chosen.group_sizes else None,
        weight_type=chosen.weight_type,
        symmetric=chosen.symmetric,
        block=chosen.block,
        layers=tuple(
            Layer(name=f"l{at}", shape=(rows, columns), dtype="BF16", source_bytes=2 * rows * columns)
            for at in range(layers)
        ),
        ignored=(),
        kept_bytes=0,
    )


@pytest.mark.parametrize("name", ["int8", "int4", "int4-asym", "fp8", "fp8-block"])
def test_a_terabyte_needs_no_more_memory_than_a_gigabyte(name: str) -> None:
    small, large = (estimate_resources(_recipe(16384, 53248, layers, name)) for layers in (1, 600))
    assert large.memory_bytes == small.memory_bytes < 2**30
    assert large.disk_bytes > 200 * small.disk_bytes
    assert large.seconds > 200 * small.seconds


def test_more_calibration_text_takes_longer() -> None:
    recipe = _recipe(28672, 8192, 2).model_copy(update={"method": "gptq"})
    little, much = (estimate_resources(recipe, text_tokens=tokens) for tokens in (16_384, 1_000_000))
    assert much.seconds == pytest.approx(7 * little.seconds, rel=0.05), "4 × 28,672 tokens, not a million"
    assert much.memory_bytes > little.memory_bytes
    other = recipe.model_copy(update={"method": "awq"})
    assert estimate_resources(other, text_tokens=1_000_000) == estimate_resources(other, text_tokens=16_384)


def test_the_estimates_hold(int8: Done) -> None:
    from tasks.quantize import quantization_record

    record = quantization_record(int8.artifact, int8.store)
    assert record is not None and record.resources is not None
    assert record.peak_rss_bytes < record.resources.memory_bytes < 10 * record.peak_rss_bytes
    assert record.coverage.written_bytes < record.resources.disk_bytes


def test_too_little_memory_is_reported_before_the_start(
    store: Store,
    adopted: Callable[..., Artifact],
    staged: Callable[[Store], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = adopted()
    monkeypatch.setattr("tasks.quantize.plan.resources.available_bytes", lambda: 10 * 2**20)
    monkeypatch.setattr("weighbridge.child_process.subprocess.Popen", lambda *a, **k: pytest.fail("started"))
    with pytest.raises(MemoryShort, match=r"test/tiny as int8 needs 0\.\d+ GiB of memory and 0\.01 GiB are free"):
        quantize(Installation.load(), source, "int8")
    assert staged(store) == []


@pytest.mark.parametrize(("limit", "free"), [("max", None), ("300", 230), ("50", 0)])
def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: Any, free: Any) -> None:
    (tmp_path / "limit").write_text(f"{limit}\n")
    (tmp_path / "used").write_text("100\n")
    (tmp_path / "parts").write_text("anon 70\ninactive_file 30\n")
    monkeypatch.setattr(resources, "CGROUPS", (tuple(tmp_path / name for name in ("limit", "used", "parts")),))
    assert available_bytes() == free if free is not None else available_bytes() > 2**20


def test_finished_files_need_no_more_disk(
    store: Store, tmp_path: Path, dying: Callable[[int], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.quantize.process import staging
    from weighbridge.errors import QuantizationInterrupted

    source = store.adopt(
        write_sharded(tmp_path / "sharded"), line="tiny", scheme="bf16", repo="test/tiny", commit="0" * 40
    )
    with dying(14), pytest.raises(QuantizationInterrupted):
        quantize(Installation.load(), source, "int8")
    asked: list[int] = []
    monkeypatch.setattr("tasks.quantize.run.require_disk", lambda folder, need, what: asked.append(need))
    quantize(Installation.load(), source, "int8")
    (folder,) = [store.path(source)]
    whole = estimate_resources(make_recipe(folder, scheme("int8"))).disk_bytes
    assert asked[0] < whole / 2
    assert staging.MODEL == "model"


def test_needed_resources_are_logged(
    store: Store, adopted: Callable[..., Artifact], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        quantize(Installation.load(), adopted(), "int8")
    assert "test/tiny as int8 by rtn needs" in caplog.text


def test_a_full_disk_is_reported_with_the_missing_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.quantize.process.staging import require_disk

    with pytest.raises(DiskFull, match=r"as int8 needs 1048576\.00 GiB"):
        require_disk(tmp_path, 2**50, "test/tiny as int8")
    require_disk(tmp_path, 1, "nothing")
