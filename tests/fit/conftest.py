"""Models of known size, as the planner sees them."""

from __future__ import annotations

from typing import Any

import pytest

from examples import tiny
from tasks.fit.shape import ModelShape
from tasks.source.headers import Tensor
from weighbridge.line import Line

# meta-llama/Llama-3.1-8B-Instruct, config.json
LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def shape_of(config: dict[str, Any]) -> ModelShape:
    tensors = (Tensor(name=name, shape=sides, dtype="BF16") for name, sides in tiny.shapes(config).items())
    return ModelShape(name="by hand", config=config, tensors=tuple(tensors))


@pytest.fixture(scope="session")
def llama() -> ModelShape:
    return shape_of(LLAMA_8B)


@pytest.fixture(scope="session")
def make_shape() -> Any:
    return shape_of


@pytest.fixture
def make_line() -> Any:
    def make(*gpus: str, schemes: list[str], engine: str = "vllm", flags: Any = None, **target: int) -> Line:
        return Line.model_validate(
            {
                "name": "llama",
                "source": "hf://acme/llama",
                "admission": {"licences": ["llama3.1"]},
                "schemes": schemes,
                "target": {"gpus": list(gpus), **target},
                "engine": {"name": engine, "flags": flags or {}},
                "suites": [{"name": "general/agreement"}],
            }
        )

    return make
