"""Launch of llama.cpp's server: options passed on, and options refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.engines import EnginePlan, LaunchSpec
from tasks.engines.llama_cpp import Engine, _options, _parameters
from weighbridge.errors import EngineFailed


def plan(**flags: str | int | bool) -> EnginePlan:
    return EnginePlan(
        engine="llama_cpp", engine_version="1", model_name="toy", context=512, concurrency=4, flags=dict(flags)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return tmp_path


def parameters(spec: LaunchSpec) -> Any:
    assert spec.command[:3] == (sys.executable, "-m", "tasks.engines.llama_cpp")
    return _parameters(_options().parse_args(spec.command[3:]))


def test_every_slot_gets_the_lines_context(folder: Path) -> None:
    found = parameters(Engine().launch(plan(), folder, "127.0.0.1", 8200))
    assert (found.n_ctx, found.n_parallel) == (2048, 4)
    assert not found.kv_unified, "one long request must not take what the others were promised"
    assert (found.hostnames, found.port, found.model_alias) == (["127.0.0.1"], 8200, {"toy"})
    assert found.model.path == str(folder / "model.gguf")


def test_unplanned_memory_use_is_switched_off(folder: Path) -> None:
    found = parameters(Engine().launch(plan(), folder, "127.0.0.1", 8200))
    assert not found.fit_params, "it would shrink what does not fit and say nothing"
    assert (found.cache_ram_mib, found.n_ctx_checkpoints) == (0, 0)
    assert found.endpoint_metrics
    assert not found.ui
    assert not found.endpoint_slots, "it shows other people's prompts"


def test_flags_have_llama_server_names(folder: Path) -> None:
    flags: dict[str, str | int | bool] = {
        "cache-type-k": "q8_0",
        "cache-type-v": "q8_0",
        "ubatch-size": 256,
        "n-gpu-layers": 20,
        "swa-full": True,
    }
    found = parameters(Engine().launch(plan(**flags), folder, "127.0.0.1", 8200))
    assert (found.cache_type_k.name, found.cache_type_v.name) == ("GGML_TYPE_Q8_0", "GGML_TYPE_Q8_0")
    assert (found.n_ubatch, found.n_gpu_layers, found.swa_full) == (256, 20, True)


@pytest.mark.parametrize("flag", ["tensor-parallel-size", "batch"])
def test_an_unsupported_flag_is_named(folder: Path, flag: str) -> None:
    with pytest.raises(EngineFailed, match=f"not given --{flag} 2 here") as refused:
        Engine().launch(plan(**{flag: 2}), folder, "127.0.0.1", 8200)
    assert "cache-type-k" in refused.value.next_step
    assert "alias" not in refused.value.next_step


def test_the_version_is_the_package_version() -> None:
    assert Engine().version().startswith("xllamacpp 2026.")
