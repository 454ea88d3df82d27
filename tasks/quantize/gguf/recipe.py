"""The recipe of a GGUF: every tensor with its type, decided from headers and config.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from tasks.quantize.gguf.convert import converter_version
from tasks.quantize.gguf.mixture import Structure, histogram, kept_reason, tensor_type_of
from tasks.quantize.gguf.names import MappedTensor, architecture_of, map_tensors, rope_factors
from tasks.quantize.plan.recipe import Ignored, unquantized_config
from tasks.quantize.tensors import read_tensors
from tasks.schemes import GgufMixture, Scheme
from tasks.schemes import scheme as find_scheme
from tasks.source.gguf.tensor_types import OF_SAFETENSORS, TENSOR_TYPES, TensorType
from tasks.source.published import read_from
from weighbridge.errors import QuantizationUncovered

METHOD = "ggml"
ALIGNMENT = 32
"""`general.alignment`: each tensor begins at a multiple (llama.cpp, docs/explanation/gguf.md)."""
_OTHER_METADATA_BYTES = 2048


class PlannedTensor(BaseModel):
    """One tensor that the file must contain."""

    model_config = ConfigDict(frozen=True)

    name: str
    """GGUF's name."""
    kind: str
    """ggml's type."""
    shape: tuple[int, ...]
    """In safetensors' order, the row last."""
    sources: tuple[str, ...]
    """The release's tensors that it is made of; empty if it is computed from config.json."""
    source_bytes: int
    kept: str = ""
    """Why it is not quantized; empty if it is."""

    @property
    def size_bytes(self) -> int:
        """Of its values."""
        return TENSOR_TYPES[self.kind].size_bytes(self.shape)


class GgufRecipe(BaseModel):
    """All decisions about a GGUF; has the same interface as `Recipe` for safetensors."""

    model_config = ConfigDict(frozen=True)

    counted: ClassVar[tuple[str, str]] = ("matrices, embedding and head among them", "matrix bytes")
    """Names of the counted units and of the bytes that the share refers to."""

    scheme: str
    method: str
    format: Literal["gguf"] = "gguf"
    weight_bits: int
    activation_bits: int
    group_size: None = None
    """Blocks are given by the types."""
    architecture: str
    """llama.cpp's name."""
    model_name: str
    """For display: `general.name`."""
    dtype: str
    """Of the release: BF16, F16 or F32."""
    tensors: tuple[PlannedTensor, ...]
    metadata_bytes: int
    """Estimated size of vocabulary and settings in the file's header."""

    @property
    def mixture(self) -> GgufMixture:
        """The scheme's types."""
        mixture = find_scheme(self.scheme).gguf
        assert mixture
        return mixture

    @property
    def layers(self) -> tuple[PlannedTensor, ...]:
        """The quantized tensors."""
        return tuple(tensor for tensor in self.tensors if not tensor.kept)

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """The tensors that are kept."""
        return tuple(
            Ignored(
                name=tensor.name,
                reason=tensor.kept,
                linear_bytes=tensor.source_bytes if len(tensor.shape) > 1 else 0,
            )
            for tensor in self.tensors
            if tensor.kept
        )

    @property
    def granularity(self) -> str:
        """What shares a scale, in words."""
        return f"blocks of 32 and 256 weights, {histogram(TENSOR_TYPES[layer.kind] for layer in self.layers)}"

    @property
    def linear_bytes(self) -> int:
        """Bytes of all matrices of the source, the embedding included, because llama.cpp quantizes it too."""
        return sum(layer.source_bytes for layer in self.layers) + sum(kept.linear_bytes for kept in self.ignored)

    @property
    def predicted_bytes(self) -> int:
        """Size of the file to be written."""
        # A tensor's entry: name and its length, number of dimensions, dimensions, type, offset.
        infos = sum(8 + len(tensor.name) + 4 + 8 * len(tensor.shape) + 4 + 8 for tensor in self.tensors)
        return 24 + self.metadata_bytes + infos + self.values_bytes

    @property
    def values_bytes(self) -> int:
        """Size of the tensors' values in that file."""
        return sum(_aligned(tensor.size_bytes) for tensor in self.tensors)

    @property
    def converted_bytes(self) -> int:
        """Size of the unquantized file, which is kept beside the result until the end."""
        return self.metadata_bytes + sum(
            _converted_type(tensor, self.dtype).size_bytes(tensor.shape) for tensor in self.tensors
        )


def make_gguf_recipe(folder: Path, scheme: Scheme, model_name: str) -> GgufRecipe:
    """Plan a release's GGUF.

    Args:
        folder: the release.
        scheme: its format must be `gguf`.
        model_name: for `general.name`.

    Raises:
        QuantizationUncovered: an unsupported architecture or tensor, or an already quantized release.
        QuantizationFailed: a file is missing, truncated or unreadable.
        ConverterMissing: llama.cpp's converter is not installed.
    """
    assert scheme.gguf
    converter_version()
    config = unquantized_config(folder)
    architecture = architecture_of(config)
    tensors = map_tensors(read_tensors(folder), architecture, int(config["num_hidden_layers"]))
    experts = max((tensor.shape[0] for tensor in tensors if len(tensor.shape) > 2), default=0)
    structure = Structure(
        architecture=architecture,
        layers=int(config["num_hidden_layers"]),
        experts=experts,
        shares_kv_heads=config.get("num_key_value_heads", config["num_attention_heads"])
        != config["num_attention_heads"],
        tied=all(tensor.name != "output.weight" for tensor in tensors),
    )
    computed = rope_factors(config, architecture)
    planned = tuple(_planned(tensor, scheme.gguf.base, structure) for tensor in (*tensors, *computed))
    if not any(TENSOR_TYPES[tensor.kind].is_quantized for tensor in planned):
        raise QuantizationUncovered(
            f"No weight of the release has rows of a multiple of 32, which {scheme.name} needs.",
            "Name int8 in the line, which scales whole rows of any width.",
            where=str(folder),
        )
    return GgufRecipe(
        scheme=scheme.name,
        method=METHOD,
        weight_bits=scheme.weight_bits,
        activation_bits=scheme.activation_bits,
        architecture=architecture,
        model_name=model_name,
        dtype=next(tensor.dtype for tensor in tensors if tensor.name == "token_embd.weight"),
        tensors=planned,
        metadata_bytes=_OTHER_METADATA_BYTES + _vocabulary_bytes(folder, config),
    )


def _planned(mapped: MappedTensor, base: str, structure: Structure) -> PlannedTensor:
    reason = kept_reason(mapped.name, len(mapped.shape)) if mapped.sources else "it is computed from config.json"
    kind = TENSOR_TYPES["f32"] if reason else tensor_type_of(mapped.name, mapped.shape[-1], base, structure)
    if not kind.is_quantized and not reason:
        reason = f"its rows of {mapped.shape[-1]} are not a multiple of 32"
    return PlannedTensor(
        name=mapped.name,
        kind=kind.name,
        shape=mapped.shape,
        sources=mapped.sources,
        source_bytes=mapped.source_bytes,
        kept=reason,
    )


def _converted_type(tensor: PlannedTensor, dtype: str) -> TensorType:
    return TENSOR_TYPES["f32"] if tensor.kind == "f32" else OF_SAFETENSORS[dtype]


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def _vocabulary_bytes(folder: Path, config: dict[str, Any]) -> int:
    """Estimate the bytes of tokens and merges in the header: each with its length, a token with its type."""
    path, size = folder / "tokenizer.json", int(config["vocab_size"])
    template = folder / "chat_template.jinja"
    template_bytes = template.stat().st_size if template.is_file() else 0
    if not path.is_file():
        # A SentencePiece model has text, score and type of each token, and a few bytes of framing.
        sentencepiece = folder / "tokenizer.model"
        return template_bytes + size * 8 + (sentencepiece.stat().st_size if sentencepiece.is_file() else 0)
    model = read_from(folder, path.name).get("model") or {}
    vocabulary, merges = model.get("vocab") or {}, model.get("merges") or []
    tokens = vocabulary if isinstance(vocabulary, dict) else [token for token, _ in vocabulary]
    text = sum(len(token.encode()) for token in tokens)
    joined = 0
    if not model.get("byte_fallback"):
        joined = sum(8 + len((merge if isinstance(merge, str) else " ".join(merge)).encode()) for merge in merges)
    # Rows without a token get a padding token such as "[PAD151700]".
    padding = max(0, size - len(tokens)) * len("[PAD000000]")
    return template_bytes + text + joined + padding + size * 12
