"""Tiny random models, written byte by byte so that no test waits for torch, and programs in place of the quantizer."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

Weights = dict[str, np.ndarray]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_bf16(path: Path, tensors: Weights) -> None:
    """Write float32 arrays as a BF16 safetensors file."""
    write_tensors(
        path,
        {name: ("BF16", (values.astype("<f4").view("<u4") >> 16).astype("<u2")) for name, values in tensors.items()},
    )


def write_tensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """Write arrays under safetensors' names of their types."""
    header, data = {}, b""
    for name, (dtype, values) in tensors.items():
        raw = values.tobytes()
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
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
    """The `config.json` of the same model."""
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
    """Write a release with all files of a real one; `changed` replaces or adds tensors by name."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bf16(folder / "model.safetensors", {**llama_weights(hidden, intermediate), **changed})
    (folder / "config.json").write_text(json.dumps(llama_config(hidden, intermediate)))
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "LICENSE").write_text("Apache License 2.0")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    return folder


SHARDS = 3


def write_sharded(folder: Path, hidden: int = 64, intermediate: int = 128) -> Path:
    """The same release in several files with an index."""
    write_release(folder, hidden, intermediate)
    (folder / "model.safetensors").unlink()
    tensors = llama_weights(hidden, intermediate)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        own_names = names[shard * len(names) // SHARDS : (shard + 1) * len(names) // SHARDS]
        write_bf16(folder / file, {name: tensors[name] for name in own_names})
        weight_map |= dict.fromkeys(own_names, file)
    index = {"metadata": {"total_size": sum(2 * values.size for values in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Replace the quantizing process by a shell script."""
    program = tmp_path / "stand-in"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("weighbridge.child_process.sys.executable", str(program))
