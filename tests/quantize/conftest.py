"""Tiny random models, written byte by byte so that no test waits for torch, and one real quantization for all."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from registry.store import Artifact, Store
from tasks.quantize import quantize

Weights = dict[str, np.ndarray]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_bf16(path: Path, tensors: Weights) -> None:
    """Write float32 arrays as a BF16 safetensors file."""
    header, data = {}, b""
    for name, values in tensors.items():
        raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def llama_weights(hidden: int, intermediate: int, layers: int = 2, vocab: int = 64, seed: int = 7) -> Weights:
    """Random weights of a tied Llama, in the names that transformers uses."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": matrix(vocab, hidden), "model.norm.weight": np.ones(hidden, np.float32)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            tensors[f"{at}.self_attn.{name}_proj.weight"] = matrix(hidden, hidden)
        tensors[f"{at}.mlp.gate_proj.weight"] = matrix(intermediate, hidden)
        tensors[f"{at}.mlp.up_proj.weight"] = matrix(intermediate, hidden)
        tensors[f"{at}.mlp.down_proj.weight"] = matrix(hidden, intermediate)
        tensors[f"{at}.input_layernorm.weight"] = np.ones(hidden, np.float32)
        tensors[f"{at}.post_attention_layernorm.weight"] = np.ones(hidden, np.float32)
    return tensors


def llama_config(hidden: int, intermediate: int) -> dict[str, object]:
    """What `config.json` says of the same model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": hidden // 2,
        "vocab_size": 64,
        "tie_word_embeddings": True,
        "max_position_embeddings": 64,
    }


def write_release(folder: Path, hidden: int = 64, intermediate: int = 128, **changed: np.ndarray) -> Path:
    """A release with all that a real one has; `changed` replaces or adds tensors by name."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bf16(folder / "model.safetensors", {**llama_weights(hidden, intermediate), **changed})
    (folder / "config.json").write_text(json.dumps(llama_config(hidden, intermediate)))
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "LICENSE").write_text("Apache License 2.0")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny release; see `write_release`."""

    def make(hidden: int = 64, intermediate: int = 128, **changed: np.ndarray) -> Path:
        return write_release(tmp_path / "release", hidden, intermediate, **changed)

    return make


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store in an installation of its own."""
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    return Store()


def adopt(store: Store, folder: Path) -> Artifact:
    """Put a release into the store."""
    return store.adopt(folder, line="tiny", scheme="bf16", repo="test/tiny", commit=COMMIT)


@pytest.fixture
def adopted(store: Store, release: Callable[..., Path]) -> Callable[..., Artifact]:
    """Write a tiny release and put it into the store."""

    def make(hidden: int = 64, intermediate: int = 128, **changed: np.ndarray) -> Artifact:
        return adopt(store, release(hidden, intermediate, **changed))

    return make


class Done(NamedTuple):
    """A real quantization with everything that it left behind."""

    store: Store
    source: Artifact
    artifact: Artifact
    progress: list[tuple[int, int]]

    @property
    def source_folder(self) -> Path:
        return self.store.path(self.source)

    @property
    def folder(self) -> Path:
        return self.store.path(self.artifact)


def _really(home: Path, scheme: str, hidden: int, intermediate: int) -> Iterator[Done]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHBRIDGE_HOME", str(home))
        store = Store()
        source = adopt(store, write_release(home / "release", hidden, intermediate))
        progress: list[tuple[int, int]] = []
        artifact = quantize(source, scheme, progress=lambda done, total: progress.append((done, total)))
        yield Done(store, source, artifact, progress)


@pytest.fixture(scope="session")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A tiny Llama of width 64, really quantized to INT8."""
    yield from _really(tmp_path_factory.mktemp("int8"), "int8", 64, 128)


@pytest.fixture(scope="session")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A tiny Llama of width 96, which 64 does not divide, really quantized to INT4."""
    yield from _really(tmp_path_factory.mktemp("int4"), "int4", 96, 192)


@pytest.fixture
def staged() -> Callable[[Store], list[str]]:
    """What is left in a store's staging folders."""
    return lambda store: [path.name for path in store.folder.glob("*/.staging/*")]
