"""The files that a publisher writes, each with one validated model; no other code parses them.

    config = read_config(content, "config.json of acme/tiny")     # or SourceRefused: file, field, value, reason

Readers return plain JSON values whose known fields have the types and bounds of the model. Unknown fields stay, since
an architecture may need them.
"""

from tasks.source.published.card import Card, read_card
from tasks.source.published.config import read_config
from tasks.source.published.fields import read_object, refused
from tasks.source.published.folder import read_from, templates_of
from tasks.source.published.tokenizer import (
    chat_templates,
    read_generation_config,
    read_index,
    read_special_tokens,
    read_template_file,
    read_tokenizer,
    read_tokenizer_config,
    special_token_texts,
)

__all__ = [
    "Card",
    "chat_templates",
    "read_card",
    "read_config",
    "read_from",
    "read_generation_config",
    "read_index",
    "read_object",
    "read_special_tokens",
    "read_template_file",
    "read_tokenizer",
    "read_tokenizer_config",
    "refused",
    "special_token_texts",
    "templates_of",
]
