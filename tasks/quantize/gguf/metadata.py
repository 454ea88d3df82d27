"""Compare a GGUF's metadata with its release: shape, vocabulary, special tokens and chat template."""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose
from pathlib import Path
from typing import Any

from tasks.quantize.gguf.recipe import GgufRecipe
from tasks.quantize.plan.recipe import read_config
from tasks.source.gguf.reader import GgufFile
from tasks.source.published import read_from, templates_of
from tasks.source.published.tokenizer import DEFAULT

BYTES = 256
# GGUF key without the architecture, and config.json's fields for the same number.
_NUMBERS = (
    ("block_count", ("num_hidden_layers",)),
    ("context_length", ("max_position_embeddings",)),
    ("embedding_length", ("hidden_size",)),
    ("attention.head_count", ("num_attention_heads",)),
    ("attention.head_count_kv", ("num_key_value_heads", "num_attention_heads")),
    ("attention.layer_norm_rms_epsilon", ("rms_norm_eps",)),
    ("rope.freq_base", ("rope_theta",)),
    ("expert_count", ("num_local_experts", "num_experts")),
    ("expert_used_count", ("num_experts_per_tok",)),
)


def disagreement(recipe: GgufRecipe, file: GgufFile, source: Path) -> tuple[str, str] | None:
    """The first disagreement between a file's metadata and its release.

    Args:
        recipe: of the file.
        file: as written.
        source: the release.

    Returns:
        The disagreement and its key; None if there is none.
    """
    return next(_disagreements(recipe, file, source), None)


def _disagreements(recipe: GgufRecipe, file: GgufFile, source: Path) -> Iterator[tuple[str, str]]:
    key = "general.architecture"
    if file.value(key) != recipe.architecture:
        yield f"the file is of {file.value(key)!r}, not of {recipe.architecture!r}", key
    config = read_config(source)
    yield from _numbers(recipe.architecture, file, {**(config.get("rope_parameters") or {}), **config})
    yield from _vocabulary(recipe, file)
    settings = read_from(source, "tokenizer_config.json")
    yield from _special_tokens(file, source, config, settings)
    written, published = file.value("tokenizer.chat_template"), templates_of(source).get(DEFAULT) or None
    if (written or None) != published:
        yield "the chat template is not the release's", "tokenizer.chat_template"


def _numbers(architecture: str, file: GgufFile, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, fields in _NUMBERS:
        key = f"{architecture}.{name}"
        published = next((config[field] for field in fields if config.get(field) is not None), None)
        written = file.value(key)
        if isinstance(published, int | float) and isinstance(written, int | float):
            # The file stores float32, config.json a decimal.
            if not isclose(published, written, rel_tol=1e-6):
                yield f"{key} is {written} where config.json says {published}", key
        elif name == "block_count":
            yield f"{key} is missing", key


def _vocabulary(recipe: GgufRecipe, file: GgufFile) -> Iterator[tuple[str, str]]:
    key = "tokenizer.ggml.tokens"
    rows = next(tensor.shape[0] for tensor in recipe.tensors if tensor.name == "token_embd.weight")
    if file.length(key) != rows:
        yield f"the vocabulary has {file.length(key):,} tokens where the embedding has {rows:,} rows", key
    kind = file.value("tokenizer.ggml.model")
    if kind == "llama":
        tokens = set(file.value(key) or ())
        missing = [f"<0x{byte:02X}>" for byte in range(BYTES) if f"<0x{byte:02X}>" not in tokens]
        if missing:
            # llama.cpp loads such a file and is healthy, but answers 400 to every prompt.
            yield (
                f"the converter took the tokenizer for a SentencePiece one, which lacks {missing[0]} and "
                f"{len(missing) - 1} more bytes: tokenizer.json sets a byte fallback that its vocabulary lacks",
                "tokenizer.ggml.model",
            )
    elif kind == "gpt2" and not file.length("tokenizer.ggml.merges"):
        yield "a byte-level vocabulary without merges", "tokenizer.ggml.merges"


def _special_tokens(
    file: GgufFile, source: Path, config: dict[str, Any], settings: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    generation = read_from(source, "generation_config.json")
    for name in ("eos", "bos"):
        key = f"tokenizer.ggml.{name}_token_id"
        allowed = _ids(config.get(f"{name}_token_id")) | _ids(generation.get(f"{name}_token_id"))
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        written = file.value(key)
        if written is None:
            if token or (allowed and name == "eos"):
                yield f"{key} is missing where the release has {token or sorted(allowed)}", key
            continue
        text = file.reader.fields["tokenizer.ggml.tokens"].contents(int(written))
        # The tokenizer's setting takes precedence: chat templates end a turn with it.
        if token and text != token:
            yield f"{key} is {written}, {text!r}, where the tokenizer says {token!r}", key
        elif not token and allowed and written not in allowed:
            yield f"{key} is {written} where the release says {sorted(allowed)}", key


def _ids(found: Any) -> set[int]:
    return {token for token in (found if isinstance(found, list) else [found]) if isinstance(token, int)}
