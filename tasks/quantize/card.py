"""Copy the source's other files beside quantized weights, and write a model card about the quantization."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from tasks.quantize.coverage import Coverage
from tasks.quantize.gguf.recipe import GgufRecipe
from tasks.quantize.plan.recipe import Recipe
from tasks.schemes import scheme

CARD = "README.md"
# Other copies of the weights, and files that no engine reads beside quantized ones, which are not copied.
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".msgpack", ".h5", ".ot", ".npz", ".data"}
_WEIGHTS |= {".onnx_data", ".tflite", ".mlmodel", ".mlpackage", ".pb", ".xml", ".npy", ".tar", ".zip", ".gz"}
_UNREAD_FOLDERS = {"onnx", "openvino", "coreml", "tflite", "tensorrt", "original", "flax", "tf"}
_ADAPTERS = ("adapter_config.json", "adapter_model")


def copy_companions(source: Path, out: Path) -> None:
    """Copy tokenizer, chat template, generation config, licence and all other files except weights."""
    for file in sorted(source.rglob("*")):
        path = file.relative_to(source)
        hidden = any(part.startswith(".") for part in path.parts)
        if not file.is_file() or hidden or file.suffix in _WEIGHTS or path.name.endswith(".index.json"):
            continue
        if path.as_posix() in ("config.json", CARD) or file.name.startswith(_ADAPTERS):
            continue
        if _UNREAD_FOLDERS.intersection(path.parts[:-1]):
            continue
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, out / path)


def write_card(
    source: Path,
    out: Path,
    *,
    repo: str,
    commit: str,
    recipe: Recipe | GgufRecipe,
    coverage: Coverage,
    versions: dict[str, str],
    calibration_tokens: int,
) -> None:
    """Write the source's model card with a final section on the quantization.

    It contains no time and no path, so that the same quantization gives the same digest.
    """
    card = source / CARD
    published = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else f"# {repo}\n"
    counted, bytes_name = recipe.counted
    origin = f"`{repo}` at commit `{commit}`" if commit else f"the folder `{repo}`"
    reasons = Counter(ignored.reason for ignored in recipe.ignored)
    calibrated_on = f"{calibration_tokens:,} tokens of text" if calibration_tokens else "no text; the method needs none"
    share = f"{coverage.share_of_linear_bytes:.1%}"
    kept = "; ".join(f"{count} because {reason}" for reason, count in reasons.items()) or "none"
    section = f"""
## Quantized by Weighbridge

- Scheme: `{recipe.scheme}`, {scheme(recipe.scheme).summary}; method `{recipe.method}`, {recipe.granularity}.
- Calibrated on: {calibrated_on}.
- From: {origin}.
- Covered: {coverage.found} of {coverage.planned} planned {counted}, {share} of {bytes_name}.
- Kept as published: {kept}.
- Size of the weights: {coverage.written_bytes:,} bytes.
- Versions: {", ".join(f"{name} {version}" for name, version in sorted(versions.items()))}.
"""
    (out / CARD).write_text(published.rstrip() + "\n" + section)
