"""How transformers loads an artifact, whichever container its weights lie in.

A GGUF is turned back into floats when it loads: what is measured is the loss in the weights, not llama.cpp's kernels,
which round activations to eight bits as they go. Those are judged through the engine, before traffic.
"""

from __future__ import annotations

from pathlib import Path

from tasks.quantize.gguf import GGUF_FILE


def model_arguments(folder: Path) -> dict[str, str]:
    """What `from_pretrained(folder, …)` of a model needs beside the folder; the tokenizer needs nothing."""
    return {"gguf_file": GGUF_FILE} if (folder / GGUF_FILE).is_file() else {}
