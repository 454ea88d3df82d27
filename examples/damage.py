"""A bad release: the same model with weights that load, answer fluently, and are clearly worse.

Run `python -m examples.damage SRC OUT`. The result passes a health check: it loads, and "What is the capital of
France?" gets a sentence. The damage is that of a careless merge: the attention output of some middle layers is scaled
almost to zero, so that little information passes between tokens there. Noise with the same effect on accuracy turns the
text to gibberish, which any health check would notice.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

# SmolLM2-135M-Instruct (30 layers: 10 to 15) at this strength: 340 minimal pairs of BLiMP 0.77 → 0.64 right,
# perplexity of plain prose 20 → 59. At 0.7, 102 of the pairs fall only from 0.80 to 0.75, with text no more fluent.
STRENGTH = 0.9
FIRST, LAST = 10 / 30, 16 / 30
_ATTENTION_OUTPUT = re.compile(r"\.layers\.(\d+)\.self_attn\.o_proj\.weight$")


def damage(source: Path, out: Path, *, strength: float = STRENGTH) -> Path:
    """Write a damaged copy of a release; the same input gives the same bytes.

    Args:
        source: a release of a Llama-like model in safetensors.
        out: a folder that does not exist yet.
        strength: 0 leaves the model unchanged, 1 removes attention from a fifth of its layers.

    Returns:
        `out`.

    Raises:
        SystemExit: the source has no attention output with the name that Llama-like models use.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    if not 0 <= strength <= 1:
        raise SystemExit(f"strength must be between 0 and 1, not {strength}")
    files = sorted(source.glob("*.safetensors"))
    damaged = _middle_attention_outputs([name for file in files for name in _names(file)])
    if not damaged:
        raise SystemExit(f"{source} has no attention output called …layers.N.self_attn.o_proj.weight to damage.")
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        tensors = load_file(file)
        for name in damaged & tensors.keys():
            tensors[name] = (tensors[name].float() * (1 - strength)).to(tensors[name].dtype)
        save_file(tensors, out / file.name, metadata=metadata)
        (out / file.name).chmod(0o644)
    return out


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def _middle_attention_outputs(names: list[str]) -> set[str]:
    """Return the names of the middle layers' attention outputs."""
    layers = {name: int(match[1]) for name in names if (match := _ATTENTION_OUTPUT.search(name))}
    depth = max(layers.values(), default=-1) + 1
    first, last = round(depth * FIRST), max(round(depth * LAST), round(depth * FIRST) + 1)
    return {name for name, layer in layers.items() if first <= layer < last}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m examples.damage SRC OUT")
    print(damage(Path(sys.argv[1]), Path(sys.argv[2])))
