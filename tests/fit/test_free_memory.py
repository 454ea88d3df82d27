"""Free memory of GPUs and host, against what an engine needs."""

from __future__ import annotations

from typing import Any

import pytest

from examples import tiny
from tasks.fit.hardware.free_memory import _catalogue_name, free_memory, needed_gib, require_free_memory
from tasks.fit.model.shape import ModelShape, shape_of_config
from tasks.fit.report import fit
from weighbridge.errors import NoRoomBeside


def test_host_memory_is_measured() -> None:
    assert free_memory()["host"][0] > 0


def test_too_little_free_memory_names_needed_and_free(make_line: Any) -> None:
    small = shape_of_config("tiny", {**tiny.CONFIG, "model_type": "llama"})
    rows = fit(small, make_line("host", schemes=["int8"], engine="transformers", context=64, concurrency=1)).rows
    need = needed_gib(rows[0])
    require_free_memory(rows, {"host": (need + 0.1,)}, "the new engine")
    with pytest.raises(
        NoRoomBeside, match=rf"the new engine needs {need:.2f} GiB of host .* free: 0\.50 GiB"
    ) as refused:
        require_free_memory(rows, {"host": (0.5,)}, "the new engine")
    assert "Nothing was touched" in refused.value.next_step


def test_vllm_needs_its_whole_share_free(llama: ModelShape, make_line: Any) -> None:
    rows = fit(llama, make_line("L40S", schemes=["int4"])).rows
    assert needed_gib(rows[0]) == rows[0].capacity_gib > rows[0].total_gib
    with pytest.raises(NoRoomBeside):
        require_free_memory(rows, {"L40S": (44.0 - 40.0,)}, "it")
    require_free_memory(rows, {"L40S": (4.0, 43.9)}, "it")


def test_a_copy_on_two_gpus_needs_both(llama: ModelShape, make_line: Any) -> None:
    rows = fit(llama, make_line("L4", schemes=["int8"], flags={"tensor-parallel-size": 2})).rows
    with pytest.raises(NoRoomBeside, match="on each of 2 GPUs"):
        require_free_memory(rows, {"L4": (22.0, 3.0)}, "it")
    require_free_memory(rows, {"L4": (22.0, 3.0, 21.9)}, "it")


def test_a_gpu_that_cannot_be_measured_is_not_checked(llama: ModelShape, make_line: Any) -> None:
    require_free_memory(fit(llama, make_line("L4", schemes=["int8"])).rows, {"host": (0.1,)}, "it")


@pytest.mark.parametrize(
    ("name", "total_gib", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 79.6, "H100"),
        ("NVIDIA H100 PCIe", 79.6, "H100-PCIe"),
        ("NVIDIA L4", 22.5, "L4"),
        ("NVIDIA L40S", 45.0, "L40S"),
        ("NVIDIA A100-SXM4-40GB", 39.6, "A100-40"),
        ("NVIDIA A100-SXM4-80GB", 80.0, "A100-80"),
        ("NVIDIA GeForce RTX 4090", 24.0, "RTX4090"),
        ("Tesla T4", 15.0, "T4"),
        ("NVIDIA GeForce GTX 1080", 8.0, None),
    ],
)
def test_nvidia_names_map_to_catalogue_names(name: str, total_gib: float, expected: str | None) -> None:
    assert _catalogue_name(total_gib, name) == expected
