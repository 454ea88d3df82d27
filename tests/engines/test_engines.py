"""Engines in an environment of their own: how they are found and launched.

SGLang and TensorRT-LLM did not run here: their command lines are held against what their own parsers took when this was
written (sglang/srt/server_args.py of 0.5, tensorrt_llm/commands/serve.py of 1.x), recorded below.
"""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from tasks.engines import EnginePlan, engine, engine_names, launch_spec, serves
from tasks.schemes import writable_scheme
from tasks.source.gguf.reader import GGUF_FILE
from weighbridge.errors import EngineFailed

OPTIONS = {
    "vllm": {"--model", "--served-model-name", "--host", "--port", "--max-model-len", "--max-num-seqs", "--dtype"},
    "sglang": {
        *{"--model-path", "--served-model-name", "--host", "--port", "--context-length", "--max-running-requests"},
        *{"--mem-fraction-static", "--tp-size", "--dtype"},
    },
    "tensorrt-llm": {
        *{"--backend", "--host", "--port", "--max_seq_len", "--max_batch_size", "--max_num_tokens", "--tp_size"},
        *{"--kv_cache_free_gpu_memory_fraction"},
    },
}
FLAGS: dict[str, dict[str, str | int | float | bool]] = {
    "vllm": {"dtype": "bfloat16"},
    "sglang": {"tp-size": 2},
    "tensorrt-llm": {"tp_size": 2},
}


def plan(name: str) -> EnginePlan:
    return EnginePlan(
        engine=name, engine_version="1", model_name="llama", context=4096, concurrency=8, flags=FLAGS[name]
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_the_plan_becomes_known_engine_options(name: str, tmp_path: Path) -> None:
    spec = engine(name).launch(plan(name), tmp_path / "llama", "127.0.0.1", 8200)
    options = [word for word in spec.command if word.startswith("--")]
    assert set(options) <= OPTIONS[name]
    assert len(set(options)) == len(options)
    command = " ".join(spec.command)
    for value in (str(tmp_path / "llama"), "127.0.0.1", "8200", "4096", "8", *map(str, FLAGS[name].values())):
        assert f" {value}" in command
    if "--served-model-name" in options:
        assert " --served-model-name llama" in command
    assert spec.environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("name", OPTIONS)
def test_the_configured_python_gives_the_version_and_runs_the_engine(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nprint('9.8.7')\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(f"WEIGHBRIDGE_{name.replace('-', '_').upper()}_PYTHON", str(python))
    assert engine(name).version() == f"{name} 9.8.7"
    assert engine(name).launch(plan(name), tmp_path, "127.0.0.1", 8200).command[0] == str(python)


@pytest.mark.parametrize("name", ["sglang", "tensorrt-llm"])
def test_a_missing_engine_says_how_to_install_it(name: str) -> None:
    with pytest.raises(EngineFailed, match="is not installed") as failed:
        engine(name).version()
    assert f"WEIGHBRIDGE_{name.replace('-', '_').upper()}_PYTHON" in failed.value.next_step


@pytest.mark.parametrize("name", engine_names())
def test_an_unreadable_artifact_is_refused_before_the_start(name: str, tmp_path: Path) -> None:
    gguf = engine(name).reads == "GGUF"
    if not gguf:
        (tmp_path / GGUF_FILE).touch()
    assert not serves(engine(name), tmp_path)
    other_plan = plan("vllm").model_copy(update={"engine": name, "flags": {}})
    with pytest.raises(EngineFailed, match=f"{name} serves .*this artifact is none") as refused:
        launch_spec(engine(name), other_plan, tmp_path, "127.0.0.1", 8200)
    suggested = refused.value.next_step.removeprefix("Name one of these under `schemes:` in the line's file: ")
    schemes = suggested.partition(";")[0].split(", ")
    assert ("q4-k-m" if gguf else "int4") in schemes
    # A line can name each, and the engine has its kernel.
    assert all(engine(name).memory[-1].serves(writable_scheme(scheme)) for scheme in schemes)
