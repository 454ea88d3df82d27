"""The catalogue of a model's rows: GPUs, schemes, GPU counts, and the fields of a row."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks.fit.catalogue import catalogue
from tasks.fit.hardware.gpus import gpu, gpu_names, use_gpus
from tasks.fit.memory.weights import Weights
from tasks.fit.model.shape import ModelShape
from tasks.fit.request import FitRequest
from tasks.schemes import all_schemes
from tasks.schemes import scheme as find_scheme
from weighbridge.errors import FitOptionUnknown, GpuFileInvalid, GpuUnknown, SchemeUnknown

NAMED = "T4 L4 A10 A100-40 A100-80 L40S RTX4090 RTX5090 RTX6000-Ada RTX-PRO-6000 H100-PCIe H100 H200 B200 MI300X"
KEYS = (
    "gpu count scheme tp pp weights_gib kv_bytes_per_token kv_gib kv_tokens activation_gib non_torch_gib "
    "cuda_graph_gib max_concurrency verdict band_gib reason"
)
REQUEST = FitRequest(version="0.19", context=8192, concurrency=8)
LLAMA_70B = "redhatai--llama-3.3-70b-instruct-fp8-dynamic"


def test_a_row_has_its_public_fields(llama: ModelShape) -> None:
    (row,) = catalogue(llama, REQUEST, gpus=["H100"], schemes=["int8"])
    assert set(KEYS.split()) <= set(row.model_dump())


def test_default_catalogue_has_every_gpu_and_served_scheme(llama: ModelShape) -> None:
    rows = catalogue(llama, REQUEST)
    assert {row.gpu for row in rows} == set(gpu_names()) - {"host"}
    assert {row.scheme for row in rows} == {scheme.name for scheme in all_schemes()} - {"q8-0", "q4-k-m"}
    rows = catalogue(llama, FitRequest(engine="ollama"), gpus=["L4"])
    assert {row.scheme for row in rows} == {"bf16", "q8-0", "q4-k-m"}


def test_the_catalogue_takes_under_a_second(llama: ModelShape) -> None:
    started = time.process_time()
    catalogue(llama, REQUEST)
    assert time.process_time() - started < 1


def test_one_gpu_comes_first_then_the_smallest_sufficient_count(published_config: Callable, llama: ModelShape) -> None:
    rows = catalogue(llama, REQUEST, gpus=["T4", "L4"], schemes=["bf16"])
    assert [(row.gpu, row.count, row.verdict) for row in rows if row.gpu == "L4"] == [
        ("L4", 1, "no"),
        ("L4", 2, "fits"),
    ]
    for name in ("T4", "L4"):
        first, *more = (row for row in rows if row.gpu == name)
        assert first.count == 1
        for row in more:
            assert row.verdict != "no" and (row.tp, row.pp) == (row.count, 1)
            # The next smaller count that is tried is not enough.
            fewer = catalogue(llama, REQUEST, gpus=[name], schemes=["bf16"], tp=max(1, row.count // 2))
            assert [row.verdict for row in fewer] == ["no"]


def test_one_row_if_one_gpu_is_enough(llama: ModelShape) -> None:
    assert [row.count for row in catalogue(llama, REQUEST, gpus=["H100"], schemes=["bf16"])] == [1]


def test_a_requested_gpu_count_is_kept(llama: ModelShape) -> None:
    (row,) = catalogue(llama, REQUEST, gpus=["T4"], schemes=["bf16"], tp=2)
    assert (row.count, row.tp, row.verdict) == (2, 2, "no")
    (row,) = catalogue(llama, REQUEST, gpus=["H100"], schemes=["bf16"], tp=2, pp=2)
    assert (row.count, row.tp, row.pp, len(row.stages)) == (4, 2, 2, 2)


def test_only_rows_that_do_not_fit_suggest_a_change(llama: ModelShape) -> None:
    rows = catalogue(llama, REQUEST)
    assert all(not row.change for row in rows if row.verdict == "fits")
    assert any(row.change for row in rows)
    small = next(row for row in rows if (row.gpu, row.scheme, row.count) == ("L4", "bf16", 1))
    assert small.verdict == "no" and small.change


def test_a_quantized_release_is_planned_in_its_own_scheme_only(published_shape: Callable[[str], ModelShape]) -> None:
    rows = catalogue(published_shape(LLAMA_70B), REQUEST, gpus=["H100"])
    assert {(row.scheme, row.count) for row in rows} == {("fp8", 1), ("fp8", 2)}
    mxfp4 = published_shape("openai--gpt-oss-120b")
    (row,) = catalogue(mxfp4, REQUEST, gpus=["H100"])
    # 65.2 GB on one GPU, as its publisher states.
    assert (row.scheme, row.count) == ("mxfp4", 1) and row.verdict != "no"
    assert row.weights_gib == pytest.approx(65_248_815_744 / 2**30, abs=0.1)
    assert Weights(mxfp4).published


def test_unknown_names_are_refused(llama: ModelShape) -> None:
    with pytest.raises(GpuUnknown, match="H100"):
        catalogue(llama, REQUEST, gpus=["H1000"])
    with pytest.raises(SchemeUnknown, match="int4"):
        catalogue(llama, REQUEST, schemes=["int3"])
    with pytest.raises(FitOptionUnknown, match="fp8"):
        catalogue(llama, REQUEST.model_copy(update={"kv_dtype": "int3"}))


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tasks.fit.catalogue import catalogue; from tasks.fit.request import FitRequest; "
        "from tasks.fit.model.shape import shape_of_config; "
        "config = {'model_type': 'llama', 'hidden_size': 64, 'intermediate_size': 64, 'num_hidden_layers': 2, "
        "'num_attention_heads': 4, 'vocab_size': 64}; "
        "catalogue(shape_of_config('x', config), FitRequest()); "
        "print({'torch', 'prefect', 'mlflow', 'huggingface_hub', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- GPUs -----------------------------------------------------------------------------------


def test_every_catalogue_entry_is_plausible() -> None:
    assert set(NAMED.split()) < set(gpu_names()) and gpu_names()[-1] == "host"
    # An "80 GB" GPU has 79.2 GiB.
    assert gpu("H100").memory_gib == pytest.approx(79.2, abs=0.1)
    for name in gpu_names():
        assert gpu(name).memory_gib > 0 and gpu(name).source and gpu(name).runs(find_scheme("int4"))
        assert name == "host" or (gpu(name).bandwidth_gbs > 0 and gpu(name).bf16_tflops > 0)


MINE = {"memory_gib": 31.5, "capabilities": ["int8_tensor_cores"], "source": "my rack"}


def write(path: Path, **entries: object) -> Path:
    path.write_text(yaml.safe_dump(entries))
    return path


def test_user_gpus_extend_and_override_the_built_in(llama: ModelShape, tmp_path: Path, fresh_gpus: None) -> None:
    use_gpus(write(tmp_path / "mine.yaml", Mine=MINE, H100={**MINE, "memory_gib": 10}))
    assert gpu("Mine").memory_gib == 31.5 and gpu("H100").memory_gib == 10 and gpu("L4").memory_gib > 20
    rows = catalogue(llama, REQUEST, gpus=["Mine"], schemes=["int8", "int4"])
    assert {row.scheme: row.verdict for row in rows if row.count == 1} == {"int8": "fits", "int4": "no"}


def test_the_settings_can_name_a_gpus_file(tmp_path: Path, fresh_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_GPUS_FILE", str(write(tmp_path / "mine.yaml", Mine=MINE)))
    assert "Mine" in gpu_names()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Mine: {memory_gib: many, capabilities: [], source: x}", ["mine.yaml, Mine", "memory_gib"]),
        ("Mine: {capabilities: [], source: x}", ["mine.yaml, Mine", "memory_gib"]),
        ("Mine: {memory_gib: 3, capabilities: [], source: x, colour: red}", ["mine.yaml, Mine", "colour"]),
        ("Mine: {memory_gib: 3, capabilities: [int7], source: x}", ["mine.yaml, Mine", "capabilities.0"]),
        (
            "Mine: {memory_gib: 3, supports: [int8, int4, fp8], source: x}",
            ["mine.yaml, Mine", "supports", "write `capabilities: [fp8, int8_tensor_cores, weight_only]` instead"],
        ),
        ("Mine: [1]", ["mine.yaml, Mine"]),
        ("Mine:", ["mine.yaml, Mine", "memory_gib"]),
        ("- 1", ["mine.yaml", "map names"]),
        ("{", ["mine.yaml", "not YAML"]),
        (None, ["mine.yaml", "cannot be read"]),
    ],
)
def test_an_invalid_gpus_file_error_names_entry_and_field(
    text: str | None, named: list[str], tmp_path: Path, fresh_gpus: None
) -> None:
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(GpuFileInvalid) as refused:
        use_gpus(tmp_path / "mine.yaml")
    assert all(part in str(refused.value) for part in named), str(refused.value)
