"""Chat templates, generation config, config and licence: where each may stand, and which of it matters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from tasks.source.changes.change import Change, Severity, change, unified
from tasks.source.changes.files import SmallFiles

DEFAULT = "default"
LONG_LINE = 200
TEXT_PARTS = ("text_config", "llm_config", "language_config")
WARNED_CONFIG = (
    "architectures", "model_type", "vocab_size", "max_position_embeddings", "sliding_window", "layer_types",
    "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "hidden_act", "rms_norm_eps",
    "attention_bias", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
)  # fmt: skip
TOLD_CONFIG = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size",
)  # fmt: skip
WARNED_GENERATION = {
    "bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "stop_strings", "suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
}  # fmt: skip
BOOKKEEPING = {"transformers_version", "_from_model_config"}


def template_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Chat templates by their names, wherever they stand."""
    ours, theirs = chat_templates(after), chat_templates(before)
    found = []
    for name in sorted(ours.keys() | theirs.keys()):
        old, new = theirs.get(name), ours.get(name)
        if old != new:
            found.append(
                Change(
                    kind="chat template",
                    what=name,
                    before="–" if old is None else f"{len(old):,} characters",
                    after="–" if new is None else f"{len(new):,} characters",
                    diff=unified(_readable(old or ""), _readable(new or "")),
                    severity="warn",
                )
            )
    return found


def chat_templates(files: SmallFiles) -> dict[str, str]:
    """A release's chat templates by name; a file of its own goes before what the tokenizer's config says.

    Source: transformers 5, `PreTrainedTokenizerBase.from_pretrained` (chat_template.jinja, chat_template.json,
    additional_chat_templates/, and the config's field, a text or a list of named texts). Jinja drops one newline at
    the end, so it is none of the template's.
    """
    named = files.json_of("tokenizer_config.json").get("chat_template")
    found: dict[str, str] = {}
    if isinstance(named, str):
        found[DEFAULT] = named
    elif isinstance(named, list):
        found |= {str(one.get("name")): str(one.get("template")) for one in named if isinstance(one, dict)}
    alone = files.json_of("chat_template.json").get("chat_template")
    if isinstance(alone, str):
        found[DEFAULT] = alone
    for path in files.contents:
        if path.startswith("additional_chat_templates/"):
            found[PurePosixPath(path).stem] = files.text(path) or ""
    if (text := files.text("chat_template.jinja")) is not None:
        found[DEFAULT] = text
    return {name: text.removesuffix("\n") for name, text in found.items()}


def generation_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Generation config, field by field: engines take their defaults from it."""
    old, new = (files.json_of("generation_config.json") for files in (before, after))
    found: list[Change] = []
    for name in sorted((old.keys() | new.keys()) - BOOKKEEPING):
        severity: Severity = "warn" if name in WARNED_GENERATION else "info"
        found += change("generation config", name, old.get(name), new.get(name), severity)
    return found


def config_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Fields of config.json that decide what the model says, and its size."""
    old, new = (_text_config(files.json_of("config.json")) for files in (before, after))
    found = change("config", "rope", _rope(old), _rope(new), "warn")
    for name in (*WARNED_CONFIG, *TOLD_CONFIG):
        found += change("config", name, old.get(name), new.get(name), "warn" if name in WARNED_CONFIG else "info")
    dtypes = [config.get("dtype") or config.get("torch_dtype") for config in (old, new)]
    return found + change("config", "dtype", dtypes[0], dtypes[1], "info")


def licence_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """What the card calls the licence, and its text."""
    found: list[Change] = []
    old, new = (front_matter(files.text("README.md") or "") for files in (before, after))
    for name in ("license", "license_name", "license_link"):
        found += change("licence", name, old.get(name), new.get(name), "warn")
    texts = [path for path in sorted({*before.contents, *after.contents}) if re.match(r"licen[cs]e", path, re.I)]
    for path in texts:
        found += change("licence", path, before.text(path), after.text(path), "warn")
    return found


def front_matter(card: str) -> dict[str, Any]:
    """The fields that a model card begins with; none where it has none that can be read."""
    parts = re.split(r"^---\s*$", card, maxsplit=2, flags=re.MULTILINE)
    if len(parts) != 3 or parts[0].strip():
        return {}
    try:
        fields = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        # A card that YAML cannot read has no fields for the Hub either.
        return {}
    return fields if isinstance(fields, dict) else {}


def _readable(template: str) -> str:
    """A template that stands in one line, broken at its statements, so that a diff shows where it changed."""
    if all(len(line) <= LONG_LINE for line in template.splitlines()):
        return template
    return re.sub(r"(?<!^)(?<!\n)(?=\{%|\{\{)", "\n", template)


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    part: Mapping[str, Any] = next((config[name] for name in TEXT_PARTS if isinstance(config.get(name), dict)), {})
    return {**config, **part}


def _rope(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rotary positions as transformers 5 writes them; older configs spread the same over two fields."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in given.values()):
        return dict(given)  # one for each kind of layer
    rope = {"rope_type": "default", **{"rope_type" if name == "type" else name: one for name, one in given.items()}}
    theta = given.get("rope_theta", config.get("rope_theta"))
    return rope | ({"rope_theta": float(theta)} if theta is not None else {})
