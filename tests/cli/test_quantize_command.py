"""`weighbridge quantize` as a user meets it: a plain folder, no stack; output and exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from registry.store import Store
from tasks.quantize.tensors import read_tensors

HIDDEN, LAYERS = 64, 7


def weighbridge(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "cli.main", "quantize", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, env=os.environ, check=False)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write_model(folder: Path, value: float = 0.5) -> Path:
    folder.mkdir(parents=True)
    layer = "model.layers.0"
    names = [f"{layer}.self_attn.{part}_proj.weight" for part in "qkvo"]
    names += [f"{layer}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    header, data = {}, b""
    for name in (*names, "model.embed_tokens.weight"):
        values = np.full((HIDDEN, HIDDEN), value, np.float32)
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_folder_becomes_another_whole_with_what_belongs_to_it(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")
    run = weighbridge(source, "--scheme", "int4", "--out", tmp_path / "out", "--json")
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["coverage"]["found"] == LAYERS
    assert answer["recipe"]["group_size"] == 64
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert len(read_tensors(tmp_path / "out")) == 3 * LAYERS + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "model", "out"], "nothing beside it"


def test_for_people_it_says_what_it_needs_and_what_it_did(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")
    run = weighbridge(source, "--scheme", "int8", "--out", tmp_path / "out")
    assert run.returncode == 0
    assert "of memory" in run.stderr
    assert f"{LAYERS} of {LAYERS} layers, 100.0% of Linear bytes" in run.stdout


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")
    run = weighbridge(source, "--scheme", "fp8", "--dry-run")
    assert run.returncode == 0
    assert "model.embed_tokens" in run.stdout
    assert "Needs" in run.stdout
    as_json = json.loads(weighbridge(source, "--scheme", "fp8", "--dry-run", "--json").stdout)
    assert as_json["needs"]["memory_bytes"] < as_json["available_memory_bytes"]
    assert as_json["predicted_bytes"] == pytest.approx(4 * HIDDEN**2 + LAYERS * HIDDEN**2, rel=0.2)
    assert sorted(path.name for path in tmp_path.iterdir()) in (["model"], ["home", "model"])


@pytest.mark.parametrize(
    ("value", "scheme", "code"),
    [(np.nan, "int8", "QuantizationFailed"), (1.0, "fp8-block", "QuantizationUncovered")],
)
def test_a_failure_has_a_name_and_leaves_nothing(tmp_path: Path, value: float, scheme: str, code: str) -> None:
    source = write_model(tmp_path / "model", value)
    run = weighbridge(source, "--scheme", scheme, "--out", tmp_path / "out", "--json")
    assert run.returncode == 8
    assert json.loads(run.stdout)["error"] == code
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["model"]


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")
    (tmp_path / "out").mkdir()
    run = weighbridge(source, "--scheme", "int8", "--out", tmp_path / "out", "--json")
    assert (run.returncode, json.loads(run.stdout)["error"]) == (2, "OptionInvalid")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["MODEL", "--scheme", "int3", "--out", "OUT"], "SchemeUnknown"),
        (["MODEL", "--scheme", "int8"], "OptionInvalid"),
        (["MODEL", "--scheme", "int8", "--out", "OUT", "--method", "guess"], "OptionInvalid"),
        (["MODEL", "--scheme", "int8", "--out", "OUT", "--method", "awq"], "OptionInvalid"),
        (["MODEL", "--scheme", "q8-0", "--out", "OUT", "--method", "gptq"], "OptionInvalid"),
        (["nowhere", "--scheme", "int8", "--out", "OUT"], "LineUnknown"),
    ],
)
def test_what_cannot_be_asked_is_named(tmp_path: Path, arguments: list[str], code: str) -> None:
    places = {"MODEL": str(write_model(tmp_path / "model")), "OUT": str(tmp_path / "out")}
    run = weighbridge(*(places.get(argument, argument) for argument in arguments), "--json")
    assert (run.returncode, json.loads(run.stdout)["error"]) == (2, code)


def test_bf16_of_an_unquantized_model_is_nothing_to_do(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")
    run = weighbridge(source, "--scheme", "bf16")
    assert run.returncode == 0
    assert "nothing to do" in run.stdout


def test_a_lines_download_is_quantized_into_the_store(tmp_path: Path) -> None:
    store = Store()
    source = store.adopt(
        write_model(tmp_path / "model"),
        line="smollm2",
        scheme="bf16",
        repo="org/tiny",
        commit="0" * 40,
        facts={"made_by": "download"},
    )
    run = weighbridge("smollm2", "--scheme", "int8", "--json")
    assert run.returncode == 0, run.stderr
    digest = json.loads(run.stdout)["out"].rpartition("/")[2]
    quantized = store.get("smollm2", digest)
    assert (quantized.scheme, quantized.repo, quantized.commit) == ("int8", source.repo, source.commit)


def test_a_line_without_a_download_says_how_to_get_one(tmp_path: Path) -> None:
    run = weighbridge("smollm2", "--scheme", "int8", "--json")
    assert json.loads(run.stdout)["error"] == "ArtifactMissing"
    assert "weighbridge release smollm2" in json.loads(run.stdout)["next"]
