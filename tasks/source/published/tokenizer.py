"""Tokenizer files, chat templates, the generation config and the index of shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictFloat, StrictInt, StrictStr

from tasks.source.published.fields import (
    Id,
    Name,
    Number,
    Published,
    Switch,
    Text,
    read_object,
    refused,
)

MAX_SMALL_BYTES = 16 * 2**20
"""Of tokenizer_config.json and the like; the largest known one has 1.2 MB."""
MAX_TOKENIZER_BYTES = 256 * 2**20
"""Of tokenizer.json; the largest known one has 33 MB."""
MAX_TOKENS = 2**22
MAX_TENSORS = 4_000_000
SHARD = re.compile(r"[\w.-]+\.safetensors")
DEFAULT = "default"


class Token(Published):
    """A special token with its settings."""

    content: Text


Special = Token | Text | None


class NamedTemplate(Published):
    """One of several chat templates."""

    name: Name
    template: Text


class SpecialTokens(Published):
    """special_tokens_map.json."""

    bos_token: Special = None
    eos_token: Special = None
    unk_token: Special = None
    sep_token: Special = None
    pad_token: Special = None
    cls_token: Special = None
    mask_token: Special = None
    additional_special_tokens: list[Token | Text] | dict[str, Token | Text] | None = None
    extra_special_tokens: list[Token | Text] | dict[str, Token | Text] | None = None


class TokenizerConfig(SpecialTokens):
    """tokenizer_config.json."""

    chat_template: Text | Annotated[list[NamedTemplate], Field(max_length=100)] | None = None
    added_tokens_decoder: dict[Annotated[StrictStr, Field(pattern=r"^\d{1,8}$")], Token] | None = None
    add_bos_token: Switch = None
    add_eos_token: Switch = None
    tokenizer_class: Name | None = None
    # Where there is no limit, transformers writes 10^30, as an integer.
    model_max_length: Annotated[StrictInt | StrictFloat, Field(ge=0, le=1.1e30)] | None = None


class TemplateFile(Published):
    """chat_template.json."""

    chat_template: Text | Annotated[list[NamedTemplate], Field(max_length=100)] | None = None


class GenerationConfig(Published):
    """generation_config.json."""

    bos_token_id: Id | list[Id] | None = None
    eos_token_id: Id | list[Id] | None = None
    pad_token_id: Id | list[Id] | None = None
    do_sample: Switch = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Number | None = None
    min_p: Number | None = None
    repetition_penalty: Number | None = None
    stop_strings: Text | list[Text] | None = None
    suppress_tokens: list[Id] | None = None


class AddedToken(Published):
    """An entry of `added_tokens`."""

    id: Id
    content: Text


class TokenizerModel(Published):
    """`model` of tokenizer.json."""

    type: Name | None = None
    vocab: (
        Annotated[dict[str, Id], Field(max_length=MAX_TOKENS)]
        | Annotated[list[tuple[StrictStr, StrictFloat | StrictInt]], Field(max_length=MAX_TOKENS)]
        | None
    ) = None
    merges: (
        Annotated[list[StrictStr], Field(max_length=MAX_TOKENS)]
        | Annotated[list[tuple[StrictStr, StrictStr]], Field(max_length=MAX_TOKENS)]
        | None
    ) = None
    byte_fallback: Switch = None


class Tokenizer(Published):
    """tokenizer.json, of the `tokenizers` library."""

    added_tokens: Annotated[list[AddedToken], Field(max_length=MAX_TOKENS)] | None = None
    model: TokenizerModel | None = None
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


def _shard_name(name: str) -> str:
    if not SHARD.fullmatch(name):
        raise ValueError("a shard is a safetensors file beside the index")
    return name


class Index(Published):
    """model.safetensors.index.json: file by tensor."""

    weight_map: Annotated[
        dict[Annotated[StrictStr, Field(max_length=1000)], Annotated[StrictStr, AfterValidator(_shard_name)]],
        Field(max_length=MAX_TENSORS),
    ]


def read_tokenizer_config(content: bytes, file: str) -> dict[str, Any]:
    """Read tokenizer_config.json; as `read_config`."""
    return read_object(content, file, MAX_SMALL_BYTES, TokenizerConfig)


def read_special_tokens(content: bytes, file: str) -> dict[str, Any]:
    """Read special_tokens_map.json; as `read_config`."""
    return read_object(content, file, MAX_SMALL_BYTES, SpecialTokens)


def read_template_file(content: bytes, file: str) -> dict[str, Any]:
    """Read chat_template.json; as `read_config`."""
    return read_object(content, file, MAX_SMALL_BYTES, TemplateFile)


def read_generation_config(content: bytes, file: str) -> dict[str, Any]:
    """Read generation_config.json; as `read_config`."""
    return read_object(content, file, MAX_SMALL_BYTES, GenerationConfig)


def read_tokenizer(content: bytes, file: str) -> dict[str, Any]:
    """Read tokenizer.json; as `read_config`."""
    return read_object(content, file, MAX_TOKENIZER_BYTES, Tokenizer)


def read_index(content: bytes, file: str) -> dict[str, str]:
    """Read the index of shards: file by tensor; as `read_config`."""
    found = read_object(content, file, MAX_TOKENIZER_BYTES, Index)
    return dict(found["weight_map"])


def chat_templates(contents: Mapping[str, bytes], of: str) -> dict[str, str]:
    """A release's chat templates by name; a separate file takes precedence over the tokenizer's config.

    Source: transformers 5, `PreTrainedTokenizerBase.from_pretrained` (chat_template.jinja, chat_template.json,
    additional_chat_templates/, and the config's field, a text or a list of named texts). Jinja drops one
    trailing newline, so it is removed here too.

    Args:
        contents: The release's small files by path.
        of: The release, for messages.

    Raises:
        SourceRefused: A file is not valid.
    """
    found: dict[str, str] = {}
    readers = {"tokenizer_config.json": read_tokenizer_config, "chat_template.json": read_template_file}
    for path, reader in readers.items():
        given = reader(contents[path], f"{path} of {of}").get("chat_template") if path in contents else None
        if isinstance(given, str):
            found[DEFAULT] = given
        elif given:
            found |= {entry["name"]: entry["template"] for entry in given}
    for path, content in sorted(contents.items()):
        if path.startswith("additional_chat_templates/"):
            found[PurePosixPath(path).stem] = _text(content, f"{path} of {of}")
    if "chat_template.jinja" in contents:
        found[DEFAULT] = _text(contents["chat_template.jinja"], f"chat_template.jinja of {of}")
    return {name: text.removesuffix("\n") for name, text in found.items()}


def special_token_texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by role, as chat templates know them; of a checked tokenizer_config.json."""
    given = {name: config.get(name) for name in SpecialTokens.model_fields if name.endswith("_token")}
    return {name: token["content"] if isinstance(token, dict) else token for name, token in given.items() if token}


def _text(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(file, f"it is not UTF-8 text (byte {error.start})") from None
