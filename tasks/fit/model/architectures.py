"""Known architectures by `model_type`: the entries of `architectures.yaml`, and how to read a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from weighbridge.documents import read_yaml
from weighbridge.errors import ArchitectureUnknown

# Older configs use other names for the same fields.
ALIASES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "hidden_size": ("n_embd", "d_model"),
}
TEXT_PARTS = ("text_config", "llm_config", "language_config")


class Experts(BaseModel):
    """The experts of a layer; strings are field names in the config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: tuple[str, ...]
    width: tuple[str, ...]
    shared: str | tuple[str, str] | None = None
    shared_gate: bool = False
    bias: bool = False
    correction: bool = False


class Architecture(BaseModel):
    """One entry; `architectures.yaml` explains each field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attention: Literal["gqa", "mla"] = "gqa"
    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: Literal["none", "head", "full"] | dict[str, str] = "none"
    sinks: bool = False
    mlp: Literal["gated", "plain"] = "gated"
    norms: int = 2
    norm_bias: bool = False
    experts: Experts | None = None
    window: Literal["none", "all", "even", "tail"] | dict[str, int] = "none"
    defaults: dict[str, Any] = {}


def architecture(model_type: str) -> Architecture | None:
    """Find the entry of a `model_type`, or None."""
    return _known().get(model_type)


def known_architectures() -> tuple[str, ...]:
    """List the known `model_type`s."""
    return tuple(_known())


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that describes the language model, with the defaults of its class filled in."""
    part = text_part(config) or {}
    # Composite configs have their text model's type only inside this part, and older ones not even there.
    merged = {**config, **part}
    known = architecture(str(merged.get("model_type")))
    if known is None:
        return merged
    given = {name: value for name, value in merged.items() if value is not None}
    return {**merged, **known.defaults, **given}


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The language model's own config inside a composite one, or None."""
    return next((config[name] for name in TEXT_PARTS if isinstance(config.get(name), Mapping)), None)


def has_towers(config: Mapping[str, Any]) -> bool:
    """Whether the model has vision or audio towers beside its language model."""
    return any(isinstance(config.get(name), Mapping) for name in ("vision_config", "audio_config"))


def required(config: Mapping[str, Any], *fields: str) -> int:
    """Read a positive integer from the config, under the first of its names that is present.

    Raises:
        ArchitectureUnknown: the field is missing; it is named.
    """
    for field in fields:
        for name in (field, *ALIASES.get(field, ())):
            value = config.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    raise ArchitectureUnknown(
        f"config.json of model type {config.get('model_type')!r} has no usable `{fields[0]}`, so its memory is "
        "unknown.",
        "Complete config.json, or choose a release of a known architecture.",
        where="config.json",
    )


def largest(size: int | Sequence[int]) -> int:
    """The largest of a size that some models state for each layer."""
    return size if isinstance(size, int) else max(size, default=0)


def head_size(text: Mapping[str, Any]) -> int:
    """Width of one attention head."""
    return int(text.get("head_dim") or required(text, "hidden_size") // required(text, "num_attention_heads"))


def kv_heads(text: Mapping[str, Any]) -> int:
    """Number of key-value heads.

    By default every attention head has its own, as in transformers' classes: the upper bound.
    """
    if text.get("num_key_value_heads"):
        return required(text, "num_key_value_heads")
    return 1 if text.get("multi_query") else required(text, "num_attention_heads")


def flag(config: Mapping[str, Any], entry: bool | str) -> bool:
    """Resolve a switch that an entry states itself, or takes from a field of the config."""
    return bool(config.get(entry)) if isinstance(entry, str) else entry


@cache
def _known() -> dict[str, Architecture]:
    entries = read_yaml(Path(__file__).with_name("architectures.yaml"))
    return {name: Architecture.model_validate(fields) for name, fields in entries.items()}
