"""`ignore` of `quantization_config`, so that every loader understands it.

Files name modules as their publisher did. transformers renames many on load, and vLLM has names of its own: towers
move into or out of `model.`, layers of the text model below `language_model.`. An exact name that a loader does not
know is no error, and the module counts as quantized. So a kept module is named twice: exactly, and by a pattern that
holds whatever stands before it (`re:`, matched from the start by compressed-tensors, transformers and vLLM).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tasks.quantize.plan.roles import REASONS
from tasks.quantize.plan.targets import Ignored

HEAD = "lm_head"
NOT_A_MATRIX = "it is not a matrix of floats"
# Loaders do not rename these so that it matters: an embedding and a norm are no Linear layers, and a head is `lm_head`.
_PLAIN = {REASONS["head"], REASONS["embedding"], REASONS["norm"], NOT_A_MATRIX}
_ANYWHERE = r"(.*\.)?"
_TOWERS = ("visual", "vision_tower", "vision_model", "multi_modal_projector", "audio_tower", "embed_vision")
"""What loaders call towers and projectors, whatever the files call them."""


def ignored_modules(planned: Sequence[str], ignored: Iterable[Ignored]) -> tuple[str, ...]:
    """Names and patterns of the modules that stay as published, sorted.

    The head is always among them, even if it is tied to the embedding and in no file.

    Args:
        planned: layers to quantize; no pattern matches entry.
        ignored: the weights that stay.
    """
    ignored = tuple(ignored)
    exact = {HEAD, *(entry.name for entry in ignored)}
    special = [entry for entry in ignored if entry.reason not in _PLAIN]
    if not special:
        return tuple(sorted(exact))
    text = "\n".join(planned)
    patterns = {rf"{_ANYWHERE}{HEAD}$"}
    for entry in special:
        if entry.reason == REASONS["tower"]:
            patterns |= {
                rf"{_ANYWHERE}{name}(\..*)?$" for name in _TOWERS if not _hits(rf"{_ANYWHERE}{name}(\..*)?$", text)
            }
        if not any(re.match(pattern, entry.name) for pattern in patterns):
            patterns.add(_pattern(entry, planned, text))
    return tuple(sorted(exact | {f"re:{pattern}" for pattern in patterns}))


def _pattern(entry: Ignored, planned: Sequence[str], text: str) -> str:
    parts = entry.name.split(".")
    if entry.reason in (REASONS["tower"], REASONS["prediction"]):
        # The first part of the name that no planned layer has: the tower, or the further layer.
        for end in range(1, len(parts) + 1):
            if any(name.startswith(".".join(parts[:end]) + ".") for name in planned):
                continue
            # A number alone says nothing: `layers.61`.
            first = end - 2 if parts[end - 1].isdigit() and end > 1 else end - 1
            found = rf"{_ANYWHERE}{re.escape('.'.join(parts[first:end]))}(\..*)?$"
            if not _hits(found, text):
                return found
    for first in range(len(parts) - 1, -1, -1):
        found = rf"{_ANYWHERE}{re.escape('.'.join(parts[first:]))}$"
        if not parts[first].isdigit() and not _hits(found, text):
            return found
    return f"{re.escape(entry.name)}$"


def _hits(pattern: str, planned: str) -> bool:
    return bool(re.search(rf"^{pattern}", planned, re.MULTILINE))
