"""Recognise what a weight is for, by the config's numbers and its place among the others, not by its name alone.

Names of routers, heads and towers differ from architecture to architecture. What they do shows in a checkpoint all the
same: a head has a row for each token of the vocabulary, a router a row for each expert beside it, a tower stands
outside the text model. The proof by loading asks the loaded model's modules the same questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["head", "embedding", "norm", "router", "tower", "gate", "outside", "prediction"]
NARROWEST = 32
"""Rows or columns; no kernel computes with narrower weights in few bits, and there is nothing to save."""
REASONS: dict[Kind, str] = {
    "head": "the head is kept: it is often tied to the embedding",
    "embedding": "an embedding is looked up, not multiplied",
    "norm": "a norm is not a Linear layer",
    "router": "a rounded router sends tokens to other experts",
    "tower": "a vision or audio tower is not text",
    "gate": "a narrow gate steers the layer and saves no bytes",
    "outside": "it is outside the repeated layers",
    "prediction": "it predicts further tokens, which most loaders leave out",
}
LINEAR: frozenset[Kind] = frozenset({"head", "router", "tower", "gate", "outside", "prediction"})
"""Kinds whose bytes count as Linear weights."""

# Whole components of the dotted name: `gate_proj` is not `gate`.
_NAMES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("head", re.compile(r"(^|\.)(lm_head|embed_out|output|output_layer|head|shared_head\.head)$")),
    ("embedding", re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|embeddings?\.\w+|emb)$")),
    ("norm", re.compile(r"norm\d*$|(^|\.)ln_\w+$")),
    ("router", re.compile(r"(^|\.)(gate|router|shared_expert_gate|router\.\w+)$")),
    ("prediction", re.compile(r"(^|\.)(eh_proj|mtp|mtp_\w+)(\.|$)")),
    ("gate", re.compile(r"(^|\.)altup\.")),
)
_TOWER = re.compile(r"(^|\.)(vision|visual|audio|speech|multi_modal|image|vit|vpm|resampler)\w*\.")
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
_OTHER_CONFIGS = ("vision_config", "audio_config", "encoder_config", "speech_config", "vit_config", "visual")
_HEADS = (
    *("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "linear_num_value_heads"),
    *("linear_num_key_heads", "mamba_n_heads", "mamba_num_heads"),
)
_EXPERTS = (
    *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_layer"),
    *("zero_expert_num", "n_zero_experts"),
)
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed|emb|embeddings|embed_in)$")
_NUMBERED = re.compile(r"(^|\.)(\d+)\.")


@dataclass(frozen=True)
class Roles:
    """The numbers of a release by which its weights' roles are recognised."""

    vocabularies: frozenset[int]
    """Rows of embeddings and heads."""
    experts: frozenset[int]
    """Rows of routers."""
    heads: frozenset[int]
    """Rows of gates with a value for each head."""
    keys: int
    """Rows of a key projection, which are no gate; 0 if unknown."""
    layers: int
    """Of the text model; further ones predict further tokens. 0 if unknown."""
    stack: str
    """Name of the text model's layers up to their number, such as `model.layers`; empty if unknown."""
    text: str | None
    """Prefix of the text model in a release with towers; None if the release is text alone."""
    mixtures: frozenset[str]
    """Modules that hold experts."""

    def kind(self, name: str, shape: tuple[int, ...]) -> Kind | None:
        """The role of a 2-D weight that stays as published; None for a Linear layer.

        Args:
            name: of its module.
            shape: output rows, input columns.
        """
        if self._in_tower(name):
            return "tower"
        for kind, pattern in _NAMES:
            if pattern.search(name):
                return kind
        if self._predicts(name):
            return "prediction"
        if self._routes(name, shape):
            return "router"
        if not _NUMBERED.search(f"{name}."):
            return "head" if shape[0] in self.vocabularies else "outside" if self.stack else None
        return "gate" if self._is_gate(name, shape) else None

    def is_tower(self, name: str) -> bool:
        """Whether a module belongs to a vision or audio tower or its projector."""
        return self._in_tower(name)

    def _in_tower(self, name: str) -> bool:
        if _TOWER.search(f"{name}."):
            return True
        if self.text is None or name.startswith(self.text):
            return False
        return not any(kind == "head" and pattern.search(name) for kind, pattern in _NAMES)

    def _predicts(self, name: str) -> bool:
        if not self.layers or not name.startswith(f"{self.stack}."):
            return False
        number = name.removeprefix(f"{self.stack}.").partition(".")[0]
        return number.isdigit() and int(number) >= self.layers

    def _routes(self, name: str, shape: tuple[int, ...]) -> bool:
        parts = name.split(".")
        if any("expert" in part and part != "shared_expert_gate" for part in parts):
            return False
        beside = any(".".join(parts[:end]) in self.mixtures for end in range(1, len(parts)))
        return beside and (shape[0] in self.experts or shape[0] == 1)

    def _is_gate(self, name: str, shape: tuple[int, ...]) -> bool:
        if min(shape) < NARROWEST:
            return True
        per_head = shape[0] in self.heads or (shape[0] % 2 == 0 and shape[0] // 2 in self.heads)
        return per_head and shape[0] != self.keys and shape[0] * 8 <= shape[1]


def roles_of(config: Mapping[str, Any], tensors: Iterable[tuple[str, tuple[int, ...]]]) -> Roles:
    """Read the numbers that tell roles apart.

    Args:
        config: `config.json`; a number that it has not is taken from the tensors, or unknown.
        tensors: names and shapes of all tensors of the release, or of a loaded model.
    """
    shapes = dict(tensors)
    text = text_config(config)
    embeddings = {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and _EMBEDDING.search(name.removesuffix(".weight"))
    }
    vocabularies = {shape[0] for shape in embeddings.values()} | _numbers(text, ("vocab_size", "padded_vocab_size"))
    counted = _numbers(text, _EXPERTS)
    numbered = {int(found[1]) for name in shapes if (found := re.search(r"\.experts\.(\d+)\.", name))}
    experts = counted | {sum(counted)} | ({max(numbered) + 1} if numbered else set())
    stacks = stacks_of(shapes)
    stack = _text_stack(stacks, layer_count(config))
    return Roles(
        vocabularies=frozenset(vocabularies),
        experts=frozenset(experts - {0}),
        heads=frozenset(_numbers(text, _HEADS) - {0}),
        keys=_key_rows(text),
        layers=layer_count(config) if stack else 0,
        stack=stack,
        text=_text_prefix(config, embeddings),
        mixtures=frozenset(
            name[: found.start()]
            for name in shapes
            if (found := re.search(r"\.(experts|\w+_experts)\.|\.experts$", name))
        ),
    )


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that describes the text model; the config itself if it has no parts."""
    for name in _TEXT_CONFIGS:
        part = config.get(name)
        if isinstance(part, Mapping):
            return text_config(part) or part
    return config


def layer_count(config: Mapping[str, Any]) -> int:
    """Number of the text model's layers; 0 if the config does not say, the smallest number where it says several."""
    return min(_numbers(text_config(config), _LAYERS) - {0}, default=0)


def stacks_of(names: Iterable[str]) -> dict[str, set[int]]:
    """The numbers of repeated modules by the name before the number, of each name's first number only."""
    stacks: dict[str, set[int]] = {}
    for name in names:
        found = _NUMBERED.search(name)
        if found and found.start():
            stacks.setdefault(name[: found.start()], set()).add(int(found[2]))
    return stacks


def _text_stack(stacks: Mapping[str, set[int]], layers: int) -> str:
    """The stack of the text model: of the fitting length, and not in a tower."""
    fitting = [
        name for name, numbers in stacks.items() if not _TOWER.search(f"{name}.") and set(range(layers)) <= numbers
    ]
    return max(fitting, key=lambda name: (bool(re.search(r"(^|\.)(layers|h|blocks)$", name)), -len(name)), default="")


def _text_prefix(config: Mapping[str, Any], embeddings: Iterable[str]) -> str | None:
    """Where the text model's modules begin, in a release with towers."""
    if not any(isinstance(config.get(name), Mapping) for name in _OTHER_CONFIGS):
        return None
    text = [name for name in embeddings if not _TOWER.search(f"{name}.")]
    return min(text, key=len).rpartition(".")[0] + "." if text and "." in min(text, key=len) else None


def _key_rows(text: Mapping[str, Any]) -> int:
    heads, width = (next(iter(_numbers(text, (name,))), 0) for name in ("num_attention_heads", "hidden_size"))
    size = next(iter(_numbers(text, ("head_dim",))), width // heads if heads else 0)
    return size * next(iter(_numbers(text, ("num_key_value_heads",))), heads)


def _numbers(config: Mapping[str, Any], names: Iterable[str]) -> set[int]:
    found: set[int] = set()
    for name in names:
        value = config.get(name)
        found |= {part for part in (value if isinstance(value, list) else [value]) if type(part) is int}
    return found
