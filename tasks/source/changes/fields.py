"""Compare chat templates, generation config, config and licence, and say which fields matter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tasks.source.changes.change import Change, Severity, change, unified
from tasks.source.changes.files import SmallFiles
from tasks.source.published import chat_templates, read_card

DEFAULT = "default"
LONG_LINE = 200
TEXT_PARTS = ("text_config", "llm_config", "language_config")
WARNED_CONFIG = (
    "architectures", "model_type", "vocab_size", "max_position_embeddings", "sliding_window", "layer_types",
    "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "hidden_act", "rms_norm_eps",
    "attention_bias", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
)  # fmt: skip
INFO_CONFIG = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size",
)  # fmt: skip
WARNED_GENERATION = {
    "bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "stop_strings", "suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
}  # fmt: skip
BOOKKEEPING = {"transformers_version", "_from_model_config"}


def template_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Compare chat templates by name, whichever file they are in."""
    old_templates, new_templates = (chat_templates(files.contents, files.name) for files in (before, after))
    found = []
    for name in sorted(old_templates.keys() | new_templates.keys()):
        old, new = old_templates.get(name), new_templates.get(name)
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


def generation_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Compare the generation config, from which engines take their defaults, field by field."""
    old, new = (files.json_of("generation_config.json") for files in (before, after))
    found: list[Change] = []
    for name in sorted((old.keys() | new.keys()) - BOOKKEEPING):
        severity: Severity = "warn" if name in WARNED_GENERATION else "info"
        found += change("generation config", name, old.get(name), new.get(name), severity)
    return found


def config_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Compare the fields of config.json that affect answers or size."""
    old, new = (_text_config(files.json_of("config.json")) for files in (before, after))
    found = change("config", "rope", _rope(old), _rope(new), "warn")
    for name in (*WARNED_CONFIG, *INFO_CONFIG):
        found += change("config", name, old.get(name), new.get(name), "warn" if name in WARNED_CONFIG else "info")
    dtypes = [config.get("dtype") or config.get("torch_dtype") for config in (old, new)]
    return found + change("config", "dtype", dtypes[0], dtypes[1], "info")


def licence_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Compare the licence in the card, and licence files."""
    found: list[Change] = []
    old, new = (read_card(files.contents.get("README.md", b"")) for files in (before, after))
    for name in ("license", "license_name", "license_link"):
        found += change("licence", name, getattr(old, name), getattr(new, name), "warn")
    texts = [path for path in sorted({*before.contents, *after.contents}) if re.match(r"licen[cs]e", path, re.I)]
    for path in texts:
        found += change("licence", path, before.text(path), after.text(path), "warn")
    return found


def _readable(template: str) -> str:
    """Break a one-line template at its statements, so that a diff shows where it changed."""
    if all(len(line) <= LONG_LINE for line in template.splitlines()):
        return template
    return re.sub(r"(?<!^)(?<!\n)(?=\{%|\{\{)", "\n", template)


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    part: Mapping[str, Any] = next((config[name] for name in TEXT_PARTS if isinstance(config.get(name), dict)), {})
    return {**config, **part}


def _rope(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rotary position settings in transformers 5's form; older configs have them in two fields."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in given.values()):
        return dict(given)  # separate settings for each kind of layer
    rope = {"rope_type": "default", **{"rope_type" if name == "type" else name: value for name, value in given.items()}}
    theta = given.get("rope_theta", config.get("rope_theta"))
    return rope | ({"rope_theta": float(theta)} if theta is not None else {})
