"""A release of a tiny language model with random weights, in well under a second and without torch.

For the stand-in for the Hub, and for tests that read a release without running it. It has the shape of a Llama and no
usable tokenizer: it loads, and generates nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "tie_word_embeddings": True,
}
CARD = "---\nlicense: {licence}\n---\n# A tiny model with random weights\n"


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a Llama by name, embeddings first."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        tensors |= {
            f"{layer}.self_attn.q_proj.weight": (queries, hidden),
            f"{layer}.self_attn.k_proj.weight": (keys, hidden),
            f"{layer}.self_attn.v_proj.weight": (keys, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, queries),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
        }
    tensors["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = (config["vocab_size"], hidden)
    return tensors


def build(folder: Path, *, seed: int = 0, shards: int = 1, licence: str = "apache-2.0", **config: Any) -> Path:
    """Write a release.

    Args:
        folder: created if missing.
        seed: of the weights; another seed gives another release.
        shards: number of safetensors files.
        licence: of the model card.
        config: fields of config.json that differ from `CONFIG`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**CONFIG, **config}
    (folder / "config.json").write_text(json.dumps(settings, indent=1))
    (folder / "README.md").write_text(CARD.format(licence=licence))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    numbers = random.Random(seed)
    tensors = list(shapes(settings).items())
    if shards == 1:
        write_safetensors(folder / "model.safetensors", dict(tensors), numbers)
        return folder
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        shard = dict(tensors[number::shards])
        write_safetensors(folder / name, shard, numbers)
        weight_map |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_safetensors(path: Path, tensors: Mapping[str, tuple[int, ...]], numbers: random.Random) -> None:
    """Write tensors of random bfloat16 numbers between -2 and 2."""
    header, blocks, position = {}, [], 0
    for name, shape in tensors.items():
        count = 1
        for side in shape:
            count *= side
        low = numbers.randbytes(count)
        # The high byte carries sign and exponent: 0x3f and 0xbf are plus and minus 0.5 to 2.
        high = bytes(0x3F | (byte & 0x80) for byte in numbers.randbytes(count))
        block = bytearray(2 * count)
        block[0::2], block[1::2] = low, high
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, position + len(block)]}
        position += len(block)
        blocks.append(bytes(block))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blocks))
