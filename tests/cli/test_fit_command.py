"""`weighbridge fit` as a user meets it, for models of which there is only a config.json."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from cli.fit import add_to
from examples import tiny
from tasks.fit.hardware import gpus
from tasks.fit.model.shape import shape_of_folder
from tasks.source.client import Hub
from weighbridge.errors import (
    ArchitectureUnknown,
    DoesNotFit,
    FitOptionUnknown,
    GpuFileInvalid,
    GpuUnknown,
    LineUnknown,
    PricesInvalid,
    SchemeUnknown,
    WeighbridgeError,
)

# meta-llama/Llama-3.1-8B-Instruct, config.json
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
GPUS = "T4 L4 A10 A100-40 A100-80 L40S RTX4090 RTX5090 RTX6000-Ada RTX-PRO-6000 H100-PCIe H100 H200 B200 MI300X"
KEYS = (
    "gpu count scheme tp pp weights_gib kv_bytes_per_token kv_gib kv_tokens activation_gib non_torch_gib "
    "cuda_graph_gib max_concurrency verdict band_gib reason"
)
Run = Callable[..., str]
"""Runs the command in this process; returns its output, or the message of the error that is expected."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama-8b")
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    # A folder is planned without a stack and without the Hub; the settings must not leak into other tests.
    monkeypatch.setattr("weighbridge.settings.use_libraries", lambda settings: None)
    app = typer.Typer()
    add_to(app)
    app.command("other")(lambda: None)

    def command(*arguments: object, fails: type[WeighbridgeError] | None = None) -> str:
        done = CliRunner().invoke(app, ["fit", *map(str, arguments)], env={"COLUMNS": "250"})
        if fails:
            assert isinstance(done.exception, fails), done.output
            return str(done.exception)
        assert done.exception is None, done.output
        return done.stdout

    return command


def weighbridge(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A real process, for its exit status, and for what it imported."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "250"},
        check=False,
    )


def test_json_has_the_rows_with_the_fields_of_the_issue(run: Run, model: Path) -> None:
    answer = json.loads(run(model, "--context", 8192, "--concurrency", 8, "--engine", "vllm@0.19", "--json"))
    assert answer["parameters"] == answer["active_parameters"] == 8_030_261_248
    assert (answer["weights_from"], answer["engine_profile"]) == ("config", "vllm 0.17 to 0.19")
    assert answer["engine_profile_is_nearest"] is False and answer["engine_profile_source"]
    assert all(set(KEYS.split()) | {"monthly_eur"} <= set(row) for row in answer["rows"])
    assert set(GPUS.split()) <= {row["gpu"] for row in answer["rows"]}
    assert {row["scheme"] for row in answer["rows"]} == {
        "bf16",
        "int8",
        "int8-w8a16",
        "int4",
        "int4-asym",
        "fp8",
        "fp8-block",
        "mxfp4",
    }
    assert {row["verdict"] for row in answer["rows"]} <= {"fits", "tight", "no"}
    fits = next(row for row in answer["rows"] if (row["gpu"], row["scheme"]) == ("H100", "bf16"))
    assert (fits["verdict"], fits["kv_bytes_per_token"], fits["kv_needed_gib"]) == ("fits", 131_072, 8.0)
    assert fits["monthly_eur"] > 100


def test_options_reach_the_planner(run: Run, model: Path) -> None:
    arguments = (
        "--gpu H100 --gpu A100-80 --scheme int8 --tp 2 --pp 2 --kv-dtype fp8 --dtype float16 --utilization 0.8 "
        "--max-num-seqs 64 --max-num-batched-tokens 4096 --context 1024 --concurrency 3 --eager --json"
    )
    answer = json.loads(run(model, *arguments.split()))
    assert answer["request"] == {
        "engine": "vllm",
        "version": None,
        "context": 1024,
        "concurrency": 3,
        "kv_dtype": "fp8",
        "dtype": "float16",
        "utilization": 0.8,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 4096,
        "eager": True,
    }
    assert [(row["gpu"], row["scheme"], row["tp"], row["pp"], row["count"]) for row in answer["rows"]] == [
        ("H100", "int8", 2, 2, 4),
        ("A100-80", "int8", 2, 2, 4),
    ]
    for row in answer["rows"]:
        # Half of the layers, half of the heads, one byte a number.
        assert row["kv_bytes_per_token"] == 131_072 // 8 and row["cuda_graph_gib"] == 0


def test_the_table_says_what_a_reader_needs(run: Run, model: Path) -> None:
    shown = run(model, "--context", 8192, "--concurrency", 8, "--gpu", "L4", "--gpu", "H100", "--engine", "vllm@0.19")
    for expected in (
        "8.03 billion parameters; weights from config",
        "8 × 8192 tokens on vllm 0.17 to 0.19",
        "€/month",
        "at once",
        "the rule of thumb",
    ):
        assert expected in shown
    assert "nearest" not in shown
    # One row a GPU and scheme: with the fewest GPUs that do.
    assert re.search(r"L4 ×2 +bf16", shown) and re.search(r"H100 +bf16 .* fits", shown)


def test_what_does_not_fit_says_why_and_what_would(run: Run, model: Path) -> None:
    shown = run(model, "--gpu", "T4", "--scheme", "bf16", "--tp", "1")
    assert re.search(r"T4 bf16: no, .*; would fit: \S+", shown)


def test_an_unknown_version_says_that_it_took_the_nearest(run: Run, model: Path) -> None:
    shown = run(model, "--gpu", "H100", "--scheme", "bf16", "--engine", "vllm@0.1")
    assert "nearest profile; wider band" in shown
    known, nearest = (
        json.loads(run(model, "--gpu", "H100", "--scheme", "bf16", "--engine", engine, "--json"))
        for engine in ("vllm@0.6", "vllm@0.1")
    )
    assert nearest["engine_profile_is_nearest"] and nearest["rows"][0]["band_gib"] > known["rows"][0]["band_gib"]


def test_a_mixture_shows_what_of_it_is_active(run: Run, tmp_path: Path) -> None:
    config = {**LLAMA_8B, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    answer = json.loads(run(tmp_path, "--gpu", "H100", "--json"))
    experts = 32 * 8 * 3 * 4096 * 14336
    assert answer["parameters"] - answer["active_parameters"] == experts * 6 // 8
    assert f"{answer['active_parameters'] / 1e9:.1f} active" in run(tmp_path, "--gpu", "H100")


def test_the_plot_is_written(run: Run, model: Path, tmp_path: Path) -> None:
    run(model, "--gpu", "H100", "--gpu", "L4", "--plot", tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    for wrong in (tmp_path / "out.xyz", tmp_path / "no" / "out.png"):
        output = run(model, "--gpu", "H100", "--plot", wrong, fails=FitOptionUnknown)
        assert "--plot" in output and "ends in .png" in output


def test_ones_own_gpus_and_prices(run: Run, model: Path, tmp_path: Path) -> None:
    rack, prices = tmp_path / "rack.yaml", tmp_path / "prices.yaml"
    rack.write_text(
        yaml.safe_dump({"Rack": {"memory_gib": 60, "capabilities": ["int8_tensor_cores"], "source": "mine"}})
    )
    prices.write_text("rentals: {scaleway-h100-pcie: {price: 0.1, date: 2026-11-20, source: a dream}}")
    gpus._catalogue.cache_clear()
    try:
        (row,) = json.loads(run(model, "--gpus-file", rack, "--gpu", "Rack", "--scheme", "int8", "--json"))["rows"]
        assert row["verdict"] == "fits" and row["monthly_eur"] is None
        rack.write_text("Rack: {memory_gib: much}")
        output = run(model, "--gpus-file", rack, fails=GpuFileInvalid)
        assert "rack.yaml, Rack" in output and "memory_gib" in output and "Next: " in output
    finally:
        gpus._catalogue.cache_clear()
    arguments = ("--gpu", "H100-PCIe", "--scheme", "bf16", "--prices", prices)
    (row,) = json.loads(run(model, *arguments, "--json"))["rows"]
    assert row["monthly_eur"] == pytest.approx(73, abs=1)
    prices.write_text("rentals: {scaleway-h100-pcie: {price: cheap}}")
    assert "scaleway-h100-pcie" in run(model, *arguments, fails=PricesInvalid)


@pytest.mark.parametrize(
    ("arguments", "fails", "named"),
    [
        ("--gpu H1000", GpuUnknown, "no GPU called 'H1000'; known: T4, L4"),
        ("--scheme int3", SchemeUnknown, "no scheme called 'int3'"),
        ("--engine warp", FitOptionUnknown, "engine called 'warp'. [--engine] Next: Name one of llama-cpp, ollama"),
        ("--engine warp@1", FitOptionUnknown, "engine called 'warp'"),
        ("--kv-dtype fp7", FitOptionUnknown, "KV dtype called 'fp7'; known: auto, fp8"),
        ("--dtype int3", FitOptionUnknown, "dtype called 'int3' for weights; known: auto"),
    ],
)
def test_a_wrong_name_is_refused_with_those_that_are_known(
    run: Run, model: Path, arguments: str, fails: type[WeighbridgeError], named: str
) -> None:
    output = run(model, *arguments.split(), fails=fails)
    assert named in output and "Next: " in output


def test_a_target_that_is_none_is_named(run: Run, tmp_path: Path) -> None:
    output = run(tmp_path / "nowhere", fails=LineUnknown)
    assert "nowhere" in output and "hf://org/model" in output
    for broken in (None, "{", "[1]"):
        if broken:
            (tmp_path / "config.json").write_text(broken)
        assert "config.json" in run(tmp_path, fails=ArchitectureUnknown)
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_8B, "vocab_size": None}))
    assert "`vocab_size`" in run(tmp_path, fails=ArchitectureUnknown)


def test_a_line_brings_its_target_and_is_refused_where_nothing_fits(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of_folder(model)
    asked: list[str] = []

    def recorded_shape(hub: Hub, target: str) -> Any:
        asked.append(target)
        return shape

    monkeypatch.setattr("tasks.fit.model.shape.shape_of", recorded_shape)
    # lines/llama.yaml: int8 and int4 on an L40S or H100, 16 requests at once.
    answer = json.loads(run("llama", "--json"))
    assert asked == ["hf://meta-llama/Llama-3.1-8B-Instruct@main"]
    assert {row["scheme"] for row in answer["rows"]} == {"int8", "int4"}
    assert answer["request"]["concurrency"] == 16 and any(row["verdict"] == "fits" for row in answer["rows"])
    assert json.loads(run("llama", "--concurrency", 2, "--json"))["request"]["concurrency"] == 2
    huge = shape.model_copy(update={"parts": tuple(part._replace(copies=400) for part in shape.parts)})
    monkeypatch.setattr("tasks.fit.model.shape.shape_of", lambda hub, target: huge)
    monkeypatch.setattr("tasks.fit.catalogue.check_against_tensors", lambda *checked: None)
    assert "No scheme of llama fits" in run("llama", fails=DoesNotFit)


def test_a_process_imports_nothing_heavy_and_ends_well(tmp_path: Path) -> None:
    tiny.build(tmp_path / "tiny")
    code = (
        "import sys; sys.argv = ['weighbridge', 'fit', sys.argv[1], '--json']\n"
        "import cli.main as main\n"
        "try: main.run()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'prefect', 'mlflow', 'huggingface_hub', 'scipy', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny")], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    answer = json.loads(done.stdout)
    assert answer["weights_from"] == "headers" and any(row["verdict"] == "fits" for row in answer["rows"])


def test_failures_have_an_exit_status_and_a_next_step(model: Path, tmp_path: Path) -> None:
    done = weighbridge("fit", model, "--gpu", "H1000")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("GpuUnknown: ") and "Next: " in done.stderr and "Traceback" not in done.stderr
    done = weighbridge("fit", tmp_path, "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"] == "ArchitectureUnknown" and json.loads(done.stdout)["next"]
    done = weighbridge("fit", model, "--context", "many")
    assert done.returncode == 2 and "--context" in done.stderr
