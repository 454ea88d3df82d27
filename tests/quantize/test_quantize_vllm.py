"""What we write is read by vLLM as transformers reads it: the same log-probabilities, but for its kernels' rounding.

Needs `make vllm`. Which schemes it runs without a GPU, and on which processors: tasks/engines/vllm.yaml.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.engines import engine_profile
from tasks.quantize import scheme
from tasks.quantize.methods import rtn
from tasks.quantize.plan.recipe import make_recipe
from tasks.quantize.process.job import Job
from tasks.schemes import all_schemes
from weighbridge.processor import processor_features

ROOT = Path(__file__).parents[2]
VLLM = ROOT / ".vllm" / "bin" / "python"
INSTALLED = ROOT / ".vllm" / ".installed"
NEEDS = engine_profile("vllm", None).processor_needs

AVX512 = "avx512f" in processor_features()
# Mean distance in nats a token. INT8 and FP8 round activations too, where the order of sums decides a near-tie.
# Quantized kernels were tried with AVX-512 only; with AMX besides, INT4 is 0.06 away, without it less than 0.05.
QUANTIZED = {"int8": 0.15, "int4": 0.1, "int4-asym": 0.1, "fp8": 0.25}
BOUNDS = {"bf16": 0.05, **(QUANTIZED if AVX512 else {})}

REFUSED = {"w8a8_fp8_block", *(kernel for kernel, feature in NEEDS.items() if feature is None)}
OBSTACLES = [
    found.name
    for found in all_schemes()
    if AVX512 and found.kernel in REFUSED and NEEDS[found.kernel] not in processor_features()
]

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not INSTALLED.exists(), reason="vLLM is not installed: make vllm"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Llama of random weights, wide enough for groups of 128, under every scheme that this processor runs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("vllm")
    sizes: dict[str, Any] = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    # Weights of this size make predictions sharp, so that a wrong scale moves them by nats.
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.1))
    model.to(torch.bfloat16).save_pretrained(home / "bf16")
    found = {"bf16": home / "bf16"}
    for name in (*BOUNDS, *OBSTACLES):
        if name == "bf16":
            continue
        recipe = make_recipe(found["bf16"], scheme(name))
        rtn.quantize(Job(source=found["bf16"], out=home / name, recipe=recipe), lambda: None)
        found[name] = home / name
    return found


@pytest.fixture(scope="module")
def by_vllm(folders: dict[str, Path]) -> dict[str, list[float] | str]:
    """What vLLM makes of every folder, in one process, because importing it takes twelve seconds: log-probabilities of
    the prompt's tokens, or why it refuses."""
    program = Path(__file__).with_name("prompt_log_probabilities.py")
    done = subprocess.run([VLLM, program, *folders.values()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", '"'))]
    return dict(zip(folders, lines, strict=True))


def _by_transformers(folder: Path) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokens = torch.arange(64)
    with torch.no_grad():
        predictions = model(tokens[None]).logits[0].float().log_softmax(-1)
    return predictions[:-1].gather(1, tokens[1:, None])[:, 0].numpy()


def test_vllm_reads_every_scheme_as_transformers_does(
    folders: dict[str, Path], by_vllm: dict[str, list[float] | str]
) -> None:
    assert {name: by_vllm[name] for name in BOUNDS if isinstance(by_vllm[name], str)} == {}
    distances = {
        name: float(np.abs(np.array(by_vllm[name]) - _by_transformers(folders[name])).mean()) for name in BOUNDS
    }
    assert {name: far for name, far in distances.items() if far > BOUNDS[name]} == {}
    if AVX512:
        # What is compared can tell: another scheme's numbers are further off than the bound.
        assert np.abs(np.array(by_vllm["bf16"]) - _by_transformers(folders["fp8"])).mean() > BOUNDS["bf16"]


@pytest.mark.skipif(not AVX512, reason="tried with AVX-512 only")
def test_vllm_refuses_the_obstacles_of_the_planner(by_vllm: dict[str, list[float] | str]) -> None:
    assert {name: by_vllm[name] for name in OBSTACLES if "Failed to find a kernel" not in by_vllm[name]} == {}
