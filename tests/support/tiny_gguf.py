"""A tiny random Llama with a tokenizer of its own, wide enough for blocks of 256, as a release that becomes a GGUF."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

HIDDEN, INTERMEDIATE, LAYERS, CONTEXT = 256, 512, 3, 128
WORDS = ("hello", "world", "the", "sea", "is", "blue")
TEMPLATE = "{% for message in messages %}<s>{{ message.content }}{% endfor %}"


def write_bf16(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write float32 arrays as a BF16 safetensors file."""
    header, data = {}, b""
    for name, values in tensors.items():
        raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def vocabulary() -> list[str]:
    """Llama's special tokens and bytes, then parts of words in the order of their merges."""
    parts = ["▁", *sorted({letter for word in WORDS for letter in word})]
    for word in WORDS:
        parts += [f"▁{word[: end + 1]}" for end in range(len(word))]
    return ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys(parts)]


def tokenizer() -> dict[str, object]:
    """`tokenizer.json` as Llama 2's is built: BPE that falls back to bytes."""
    merges = list(
        dict.fromkeys(f"▁{word[:end]} {word[end]}".replace("▁ ", "▁ ") for word in WORDS for end in range(len(word)))
    )
    special = [
        {"id": id, "content": token, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
        | {"single_word": False}
        for id, token in enumerate(("<unk>", "<s>", "</s>"))
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: id for id, token in enumerate(vocabulary())},
            "merges": merges,
        },
    }


def weights(seed: int = 7) -> dict[str, np.ndarray]:
    """Random weights of an untied Llama whose keys and values are shared by two heads each."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)

    rows = len(vocabulary())
    tensors = {"model.embed_tokens.weight": matrix(rows, HIDDEN), "lm_head.weight": matrix(rows, HIDDEN)}
    tensors["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name, height in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2), ("o", HIDDEN)):
            tensors[f"{at}.self_attn.{name}_proj.weight"] = matrix(height, HIDDEN)
        tensors[f"{at}.mlp.gate_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        tensors[f"{at}.mlp.up_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        tensors[f"{at}.mlp.down_proj.weight"] = matrix(HIDDEN, INTERMEDIATE)
        tensors[f"{at}.input_layernorm.weight"] = np.ones(HIDDEN, np.float32)
        tensors[f"{at}.post_attention_layernorm.weight"] = np.ones(HIDDEN, np.float32)
    return tensors


def config() -> dict[str, object]:
    """`config.json` of the same model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": HIDDEN // 4,
        "vocab_size": len(vocabulary()),
        "tie_word_embeddings": False,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def write_release(folder: Path, **changed: np.ndarray) -> Path:
    """Write a complete release; `changed` replaces or adds tensors by name."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bf16(folder / "model.safetensors", {**weights(), **changed})
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2}')
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": True}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "LICENSE").write_text("Apache License 2.0")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    return folder


def write_telling_release(folder: Path, context: int, seed: int = 7) -> Path:
    """Write a release with random weights whose next tokens vary and depend on all previous ones."""
    times = {"q_proj": 3.0, "k_proj": 3.0, "lm_head": 4.0}
    write_release(
        folder,
        **{
            name: values * next((factor for part, factor in times.items() if part in name), 1.0)
            for name, values in weights(seed).items()
        },
    )
    (folder / "config.json").write_text(json.dumps({**config(), "max_position_embeddings": context}))
    return folder
