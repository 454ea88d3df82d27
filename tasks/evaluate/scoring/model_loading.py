"""Arguments with which transformers loads an artifact, safetensors or GGUF.

A GGUF is dequantized to floats when it loads. Scores therefore show the loss in the weights, not the effect of
llama.cpp's kernels, which round activations to eight bits; the parity gate checks those through the engine.
"""

from __future__ import annotations

from pathlib import Path

from tasks.quantize.gguf import GGUF_FILE


def model_arguments(folder: Path) -> dict[str, str]:
    """Return the keyword arguments that `from_pretrained(folder, …)` of a model needs; its tokenizer needs none."""
    return {"gguf_file": GGUF_FILE} if (folder / GGUF_FILE).is_file() else {}
