"""The recipe of a GGUF: every tensor that it will hold with its type, decided from headers and config.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from tasks.quantize.gguf.convert import converter_version
from tasks.quantize.gguf.mixture import Structure, histogram, kept_reason, kind_of
from tasks.quantize.gguf.names import Named, architecture_of, named, rope_factors
from tasks.quantize.plan.recipe import Ignored, unquantized_config
from tasks.quantize.tensors import read_tensors
from tasks.schemes import Scheme
from tasks.source.gguf.kinds import KINDS, OF_SAFETENSORS, Kind

METHOD = "ggml"
ALIGNMENT = 32
"""`general.alignment`: each tensor begins at a multiple (llama.cpp, docs/explanation/gguf.md)."""
MOST = {"q8-0": "q8_0", "q4-k-m": "q4_K"}
"""The type that most tensors of a scheme get."""
_OTHER_METADATA_BYTES = 2048


class PlannedTensor(BaseModel):
    """One tensor that must stand in the file."""

    model_config = ConfigDict(frozen=True)

    name: str
    """In GGUF."""
    kind: str
    """ggml's type."""
    shape: tuple[int, ...]
    """As in safetensors, the row last."""
    sources: tuple[str, ...]
    """Tensors of the release that it is made of; none is computed from config.json."""
    source_bytes: int
    kept: str = ""
    """Why it is not quantized."""

    @property
    def size_bytes(self) -> int:
        """Of its values."""
        return KINDS[self.kind].size_bytes(self.shape)


class GgufRecipe(BaseModel):
    """All that decides what a GGUF will be; it answers what `Recipe` does of a safetensors artifact."""

    model_config = ConfigDict(frozen=True)

    counted: ClassVar[tuple[str, str]] = ("matrices, embedding and head among them", "matrix bytes")
    """What is quantized, and what the share is of."""

    scheme: str
    method: str
    format: Literal["gguf"] = "gguf"
    weight_bits: int
    activation_bits: int
    group_size: None = None
    """Blocks are the types' own."""
    architecture: str
    """As llama.cpp names it."""
    model_name: str
    """For people: `general.name`."""
    dtype: str
    """Of the release: BF16, F16 or F32."""
    tensors: tuple[PlannedTensor, ...]
    metadata_bytes: int
    """Vocabulary and settings in the file's header, an estimate."""

    @property
    def layers(self) -> tuple[PlannedTensor, ...]:
        """Tensors that are quantized."""
        return tuple(one for one in self.tensors if not one.kept)

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """The others."""
        return tuple(
            Ignored(name=one.name, reason=one.kept, linear_bytes=one.source_bytes if len(one.shape) > 1 else 0)
            for one in self.tensors
            if one.kept
        )

    @property
    def granularity(self) -> str:
        """What shares a scale, in words."""
        return f"blocks of 32 and 256 weights, {histogram(KINDS[one.kind] for one in self.layers)}"

    @property
    def linear_bytes(self) -> int:
        """Bytes of all matrices of the source, the embedding among them, for llama.cpp quantizes it too."""
        return sum(one.source_bytes for one in self.layers) + sum(one.linear_bytes for one in self.ignored)

    @property
    def predicted_bytes(self) -> int:
        """Of the file that will be written."""
        # Of each tensor: name and its length, number of sides, sides, type, offset.
        infos = sum(8 + len(one.name) + 4 + 8 * len(one.shape) + 4 + 8 for one in self.tensors)
        return 24 + self.metadata_bytes + infos + self.values_bytes

    @property
    def values_bytes(self) -> int:
        """Of the tensors' values in that file."""
        return sum(_aligned(one.size_bytes) for one in self.tensors)

    @property
    def converted_bytes(self) -> int:
        """Of the file in the release's own numbers, which lies beside it for a while."""
        return self.metadata_bytes + sum(_converted_kind(one, self.dtype).size_bytes(one.shape) for one in self.tensors)


def make_gguf_recipe(folder: Path, scheme: Scheme, model_name: str) -> GgufRecipe:
    """Decide what a release becomes as a GGUF.

    Args:
        folder: the release.
        scheme: one whose format is `gguf`.
        model_name: what the file calls the model.

    Raises:
        QuantizationUncovered: an architecture or a tensor that llama.cpp has no place for, or quantized already.
        QuantizationFailed: a file is missing, truncated or not readable.
        ConverterMissing: llama.cpp's converter is not installed.
    """
    converter_version()
    config = unquantized_config(folder)
    architecture = architecture_of(config)
    tensors = named(read_tensors(folder), architecture, int(config["num_hidden_layers"]))
    experts = max((one.shape[0] for one in tensors if len(one.shape) > 2), default=0)
    structure = Structure(
        architecture=architecture,
        layers=int(config["num_hidden_layers"]),
        experts=experts,
        shares_kv_heads=config.get("num_key_value_heads", config["num_attention_heads"])
        != config["num_attention_heads"],
        tied=all(one.name != "output.weight" for one in tensors),
    )
    computed = rope_factors(config, architecture)
    planned = tuple(_planned(one, MOST[scheme.name], structure) for one in (*tensors, *computed))
    return GgufRecipe(
        scheme=scheme.name,
        method=METHOD,
        weight_bits=scheme.weight_bits,
        activation_bits=scheme.activation_bits,
        architecture=architecture,
        model_name=model_name,
        dtype=next(one.dtype for one in tensors if one.name == "token_embd.weight"),
        tensors=planned,
        metadata_bytes=_OTHER_METADATA_BYTES + _vocabulary_bytes(folder, config),
    )


def _planned(one: Named, most: str, structure: Structure) -> PlannedTensor:
    reason = kept_reason(one.name, len(one.shape)) if one.sources else "it is computed from config.json"
    kind = KINDS["f32"] if reason else kind_of(one.name, one.shape[-1], most, structure)
    if not kind.is_quantized and not reason:
        reason = f"its rows of {one.shape[-1]} are no multiple of 32"
    return PlannedTensor(
        name=one.name,
        kind=kind.name,
        shape=one.shape,
        sources=one.sources,
        source_bytes=one.source_bytes,
        kept=reason,
    )


def _converted_kind(one: PlannedTensor, dtype: str) -> Kind:
    return KINDS["f32"] if one.kind == "f32" else OF_SAFETENSORS[dtype]


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def _vocabulary_bytes(folder: Path, config: dict[str, Any]) -> int:
    """Tokens and merges as the header lists them: each with its length, a token with its type."""
    path, size = folder / "tokenizer.json", int(config["vocab_size"])
    template = folder / "chat_template.jinja"
    words = template.stat().st_size if template.is_file() else 0
    if not path.is_file():
        # A SentencePiece model holds piece, score and type of each token, and a few bytes of framing.
        pieces = folder / "tokenizer.model"
        return words + size * 8 + (pieces.stat().st_size if pieces.is_file() else 0)
    model = json.loads(path.read_text()).get("model") or {}
    vocabulary, merges = model.get("vocab") or {}, model.get("merges") or []
    tokens = vocabulary if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
    text = sum(len(token.encode()) for token in tokens)
    joined = 0
    if not model.get("byte_fallback"):
        joined = sum(8 + len((one if isinstance(one, str) else " ".join(one)).encode()) for one in merges)
    # Rows without a token get one: "[PAD151700]".
    padding = max(0, size - len(tokens)) * len("[PAD000000]")
    return words + text + joined + padding + size * 12
