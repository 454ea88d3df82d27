"""Runs every calibrated method on a tiny random model in one process, since importing llm-compressor takes longer
than all of them: `python calibrate_tiny.py FOLDER` leaves the models there and prints what happened as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.quantize.calibration import calibration_files
from tasks.quantize.plan.recipe import make_recipe
from tasks.quantize.process.job import Job
from tasks.schemes import scheme
from weighbridge.errors import WeighbridgeError
from weighbridge.settings import load_settings

TEXT = "It rained on the third day, and the river came up to the second step of the old mill. " * 3
# autoround last: it patches compressed-tensors in its process.
RUNS = {
    "rtn-int4": ("int4", "rtn"),
    "gptq-int4": ("int4", "gptq"),
    "gptq-int4-again": ("int4", "gptq"),
    "gptq-int4-asym": ("int4-asym", "gptq"),
    "gptq-int8-w8a16": ("int8-w8a16", "gptq"),
    "awq-int4": ("int4", "awq"),
    "smoothquant-int8": ("int8", "smoothquant_gptq"),
    "no-tokenizer": ("int4", "gptq"),
    "empty-text": ("int4", "gptq"),
    "other-layers": ("int4", "gptq"),
    "other-tokenizer": ("int4", "gptq"),
    "autoround-int4-asym": ("int4-asym", "autoround"),
    "autoround-int4": ("int4", "autoround"),
}


def main(folder: Path) -> None:
    release = make_release(folder / "release")
    for name in ("gptq", "smoothquant_gptq", "awq", "autoround"):
        method: Any = importlib.import_module(f"tasks.quantize.methods.{name}")
        method.SAMPLES, method.SAMPLE_TOKENS = 16, 64
    method.STEPS_ON_CPU = 4
    published = logits(release)
    (folder / "empty.txt").write_text("\n")
    (folder / "bare").mkdir()
    make_tokenizer(folder / "other", first=5000)
    found = {name: run(name, folder, release, published) for name in RUNS}
    print(json.dumps(found))


def make_release(folder: Path) -> Path:
    """A tied Llama in two files whose activations are correlated, as real ones are, and a tokenizer of bytes."""
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=260,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, weight.shape[1] ** -0.5)
            if "embed" in name:
                weight.copy_(torch.randn(260, 6) @ torch.randn(6, 64) + 0.05 * torch.randn(260, 64))
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="120KB")
    make_tokenizer(folder)
    return folder


def make_tokenizer(folder: Path, first: int = 0) -> None:
    """A token for each byte, numbered from `first`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: at for at, letter in enumerate(["<s>", "</s>", *letters], start=first)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)


def run(name: str, folder: Path, release: Path, published: torch.Tensor) -> dict[str, Any]:
    """One quantization as the child process does it; what it said, or the named error."""
    scheme_name, method = RUNS[name]
    recipe = make_recipe(release, scheme(scheme_name), method)
    if name == "other-layers":
        first = recipe.layers[0]
        recipe = recipe.model_copy(update={"layers": (first.model_copy(update={"name": "gone"}), *recipe.layers[1:])})
    job = Job(
        source=release,
        out=folder / name / "model",
        recipe=recipe,
        companions=folder / {"no-tokenizer": "bare", "other-tokenizer": "other"}.get(name, "release"),
        calibration=calibration_files(load_settings(), folder / "empty.txt" if name == "empty-text" else None),
    )
    done = 0

    def layer_done() -> None:
        nonlocal done
        done += 1

    try:
        tokens = importlib.import_module(f"tasks.quantize.methods.{method}").quantize(job, layer_done)
    except WeighbridgeError as error:
        return {"error": error.code, "what": error.what, "left": left(job)}
    now = logits(job.out)
    return {
        "layers_done": done,
        "tokens": tokens,
        "recipe": recipe.model_dump(mode="json"),
        "finite": bool(now.isfinite().all()),
        "moved": float((now - published).norm() / published.norm()),
        "left": left(job),
    }


def left(job: Job) -> list[str]:
    folder = job.out.parent
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def logits(folder: Path) -> torch.Tensor:
    """On bytes of a text that is no calibration text."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([list(TEXT.encode()[:100])])).logits


if __name__ == "__main__":
    main(Path(sys.argv[1]))
