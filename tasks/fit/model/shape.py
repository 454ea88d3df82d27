"""A model as the planner sees it: its config and its parts, from whichever source has them.

Sources, best first: the safetensors headers; for a known architecture its config alone; else transformers' module
tree. An unknown architecture is refused by name, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from tasks.fit.model.architectures import architecture, has_towers, required, text_config, text_part
from tasks.fit.model.layout import text_layout
from tasks.fit.model.parts import Part, loaded_parts, parts_of
from tasks.fit.model.published_scheme import published_scheme
from tasks.fit.model.towers import tower_layout
from tasks.source.headers import read_header
from tasks.source.published import read_from, refused
from weighbridge.errors import ArchitectureUnknown, SourceRefused
from weighbridge.source_urls import checked, looks_like_url, repo_of, split_revision

if TYPE_CHECKING:
    from tasks.source.pinned import Source
    from tasks.source.provider import Provider
    from weighbridge.settings import Settings

CONFIG = "config.json"
DECISIVE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
DTYPES = {"bfloat16": "BF16", "float16": "F16", "half": "F16", "float32": "F32", "float": "F32"}


class ModelShape(BaseModel):
    """The properties of a model that decide its memory."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Repository and commit, or a folder; for messages."""
    config: dict[str, Any]
    """config.json."""
    parts: tuple[Part, ...]
    """The parts that an engine loads, as published."""
    origin: Literal["headers", "config", "transformers"] = "headers"
    """Source of the parts."""

    @cached_property
    def text(self) -> Mapping[str, Any]:
        """The language model's part of the config."""
        return text_config(self.config)

    @cached_property
    def layers(self) -> int:
        """Layers of the language model."""
        return required(self.text, "num_hidden_layers")

    @cached_property
    def parameters(self) -> int:
        """Number of parameters, tied ones once; of a packed release, before packing."""
        if self.origin != "headers" or not self.quantized_by:
            return sum(part.elements for part in self.parts)
        published = published_scheme(self.config)
        bits = published.weight_bits if published else 8
        return sum(part.elements * part.numbers_each(bits) for part in self.parts)

    @cached_property
    def has_experts(self) -> bool:
        """Whether it is a mixture of experts."""
        return any(part.is_expert for part in self.parts)

    @cached_property
    def active_parameters(self) -> int:
        """Parameters used for one token: all but the experts that it is not routed to."""
        experts = sum(part.elements for part in self.parts if part.is_expert)
        if not experts:
            return self.parameters
        chosen = required(self.text, "num_experts_per_tok", "experts_per_token", "moe_topk", "top_k_experts")
        available = required(self.text, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
        return self.parameters - experts + experts * chosen // available

    @property
    def quantized_by(self) -> str | None:
        """Method with which the release comes quantized, or None."""
        found = self.config.get("quantization_config")
        return str(found.get("quant_method", "an unnamed method")) if isinstance(found, dict) else None


def shape_of(settings: Settings, target: str) -> ModelShape:
    """Read the shape of a source's address, such as `hf://org/model[@revision]`, or of a folder with config.json.

    Raises:
        ArchitectureUnknown: config.json is missing or incomplete.
        SourceInvalid: the address is none.
        SourceUnknown, SourceUnreachable, SourceDamaged: the source did not answer, or a file is damaged.
    """
    if not looks_like_url(target):
        return shape_of_folder(Path(target).expanduser())
    from tasks.source.provider import provider_of

    url, revision = split_revision(target)
    provider = provider_of(settings, repo_of(checked(url)))
    return shape_of_source(provider, provider.outline(revision))


def shape_of_source(provider: Provider, source: Source) -> ModelShape:
    """Read the shape of a pinned release from its headers, without the rest of the weights.

    Raises:
        SourceUnreachable, SourceUnknown, SourceDamaged: the headers could not be read.
        SourceRefused: config.json cannot be used.
        ArchitectureUnknown: config.json is missing or incomplete.
    """
    from tasks.fit.model.source_headers import tensors_of_source

    if not source.config and source.flaws:
        raise refused(source.short, "; ".join(source.flaws))
    return _shape(source.short, source.config, parts_of(tensors_of_source(provider, source)))


def shape_of_folder(folder: Path) -> ModelShape:
    """Read the shape of a model in a folder.

    Raises:
        ArchitectureUnknown: the folder has no readable config.json, or it is incomplete.
        SourceDamaged: a header does not describe its file.
    """
    try:
        config = read_from(folder, CONFIG)
    except SourceRefused as error:
        raise ArchitectureUnknown(error.what, "Complete config.json, or name another model.", str(folder)) from None
    if not config:
        raise ArchitectureUnknown(
            f"{folder} has no readable {CONFIG}.",
            "Name the folder of a model, or hf://org/model.",
            where=str(folder),
        )
    tensors = (tensor for path in sorted(folder.glob("*.safetensors")) for tensor in read_header(path))
    return _shape(folder.name, config, parts_of(tensors))


def shape_of_config(name: str, config: dict[str, Any]) -> ModelShape:
    """Derive the shape from a config alone.

    Raises:
        ArchitectureUnknown: it is incomplete.
    """
    return _shape(name, config, ())


def _shape(name: str, config: dict[str, Any], parts: tuple[Part, ...]) -> ModelShape:
    text = text_config(config)
    known = architecture(str(text.get("model_type")))
    origin: Literal["headers", "config", "transformers"] = "headers"
    if known is None or _is_incomplete(config, text):
        # Headers are not enough: the cache of this architecture must be known too.
        from tasks.fit.model.from_transformers import completed

        config = completed(config)
        text = text_config(config)
    if not parts:
        parts, origin = _layout(config, published_dtype(config))
    layers = required(text, "num_hidden_layers")
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings")))
    return ModelShape(name=name, config=config, parts=loaded_parts(parts, tied=tied, layers=layers), origin=origin)


def _is_incomplete(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    """Whether a composite config omits fields of its text model, which then have their class defaults."""
    return text_part(config) is not None and any(text.get(field) is None for field in DECISIVE)


def published_dtype(config: Mapping[str, Any]) -> str:
    """Dtype of the weights by its safetensors name; bfloat16, the usual one, if the config does not state it."""
    text = text_config(config)
    named = next((config.get(key) or text.get(key) for key in ("dtype", "torch_dtype") if config.get(key)), None)
    named = named or text.get("dtype") or text.get("torch_dtype") or "bfloat16"
    return DTYPES.get(str(named).removeprefix("torch."), "BF16")


def _layout(
    config: Mapping[str, Any], dtype: str
) -> tuple[tuple[Part, ...], Literal["headers", "config", "transformers"]]:
    text = text_config(config)
    known = architecture(str(text.get("model_type")))
    towers: tuple[Part, ...] | None = ()
    if has_towers(config):
        towers = tower_layout(config, dtype)
    if known is not None and towers is not None:
        return text_layout(text, known, dtype) + towers, "config"
    from tasks.fit.model.from_transformers import meta_layout

    return meta_layout(config, dtype), "transformers"
