"""The tokenizer: how text is cut into tokens, and which of them end an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.source.changes.change import Change, change
from tasks.source.changes.files import SmallFiles

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
STAGES = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")
MODEL_SETTINGS = ("type", "byte_fallback", "ignore_merges", "unk_token", "fuse_unk", "dropout")
WARNED_FIELDS = (
    "add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "do_lower_case", "legacy",
    "spaces_between_special_tokens", "split_special_tokens", "padding_side", "truncation_side",
)  # fmt: skip
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MOST_NAMED = 8
"""Tokens that are named; the rest are counted."""


def tokenizer_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Vocabulary, added tokens, merges and every stage on the way from text to tokens."""
    old, new = before.json_of(TOKENIZER), after.json_of(TOKENIZER)
    if not (old and new):
        found = _files(before, after)
    else:
        found = [*_vocabulary(old, new), *_added(old, new), *_merges(old, new)]
        for name in STAGES:
            found += change("tokenizer", name, old.get(name), new.get(name), "warn")
        models = [one.get("model") or {} for one in (old, new)]
        for name in MODEL_SETTINGS:
            found += change("tokenizer", f"model.{name}", models[0].get(name), models[1].get(name), "warn")
    settings = [files.json_of(TOKENIZER_CONFIG) for files in (before, after)]
    for name in WARNED_FIELDS:
        found += change("tokenizer", name, settings[0].get(name), settings[1].get(name), "warn")
    for name in ("tokenizer_class", "model_max_length"):
        found += change("tokenizer", name, settings[0].get(name), settings[1].get(name), "info")
    return found


def special_token_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """The tokens with a meaning, each with its id: what ends an answer, fills a batch, stands for the unknown."""
    old, new = special_tokens(before), special_tokens(after)
    found: list[Change] = []
    for name in sorted(old.keys() | new.keys()):
        found += change("special tokens", name, old.get(name), new.get(name), "warn")
    return found


def special_tokens(files: SmallFiles) -> dict[str, str]:
    """Special tokens as `text (id)`, by what they are for."""
    given = {**files.json_of("special_tokens_map.json"), **files.json_of(TOKENIZER_CONFIG)}
    ids = _ids(files)
    found = {name: _told(_content(given[name]), ids) for name in SPECIAL if given.get(name) is not None}
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if more := given.get(name):
            values = more.values() if isinstance(more, Mapping) else more
            found["additional_special_tokens"] = ", ".join(_told(_content(one), ids) for one in values)
    return found


def _ids(files: SmallFiles) -> dict[str, int]:
    tokenizer = files.json_of(TOKENIZER)
    ids = _tokens(tokenizer) | {one["content"]: one["id"] for one in tokenizer.get("added_tokens") or []}
    decoder = files.json_of(TOKENIZER_CONFIG).get("added_tokens_decoder") or {}
    return {**{_content(token): int(number) for number, token in decoder.items()}, **ids}


def _content(token: Any) -> str:
    return str(token.get("content")) if isinstance(token, Mapping) else str(token)


def _told(token: str, ids: Mapping[str, int]) -> str:
    return f"{token} ({ids[token]})" if token in ids else token


def _tokens(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """The model's own tokens with their ids; Unigram lists them with scores instead."""
    vocab = (tokenizer.get("model") or {}).get("vocab") or {}
    return dict(vocab) if isinstance(vocab, Mapping) else {one[0]: number for number, one in enumerate(vocab)}


def _vocabulary(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    before, after = _tokens(old), _tokens(new)
    moved = sorted(token for token in before.keys() & after.keys() if before[token] != after[token])
    differences = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "with another id": moved,
    }
    told = [f"{len(tokens):,} {how} ({_named(tokens)})" for how, tokens in differences.items() if tokens]
    if not told:
        return []
    return change(
        "tokenizer", "vocabulary", f"{len(before):,} tokens", f"{len(after):,} tokens: {', '.join(told)}", "warn"
    )


def _added(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Tokens beside the model's: their ids, and how they are matched."""
    listed = [
        {str(one["content"]): {name: one[name] for name in sorted(one) if name != "content"} for one in found}
        for found in (old.get("added_tokens") or [], new.get("added_tokens") or [])
    ]
    changes: list[Change] = []
    for token in sorted(listed[0].keys() | listed[1].keys()):
        changes += change("tokenizer", f"added token {token}", listed[0].get(token), listed[1].get(token), "warn")
    if len(changes) <= MOST_NAMED:
        return changes
    names = [one.what.removeprefix("added token ") for one in changes]
    what = f"{len(listed[1]):,}, of which {len(changes):,} differ ({_named(names)})"
    return change("tokenizer", "added tokens", f"{len(listed[0]):,}", what, "warn")


def _merges(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Merges in their order: newer files write pairs where older ones write texts."""
    before, after = (
        [" ".join(one) if isinstance(one, list) else str(one) for one in (found.get("model") or {}).get("merges") or []]
        for found in (old, new)
    )
    if before == after:
        return []
    others = len(set(after) - set(before))
    how = f"{others:,} of them new" if others else "in another order" if set(after) == set(before) else "fewer"
    return change("tokenizer", "merges", f"{len(before):,}", f"{len(after):,}, {how}", "warn")


def _files(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Tokenizers without a tokenizer.json on both sides: whether their files are the same."""
    found: list[Change] = []
    names = {TOKENIZER, "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"}
    paths = {path for path in {*before.contents, *after.contents} if path in names or path.endswith(".model")}
    for path in sorted(paths):
        found += change("tokenizer", path, _digest(before, path), _digest(after, path), "warn")
    return found


def _digest(files: SmallFiles, path: str) -> str | None:
    content = files.contents.get(path)
    return None if content is None else f"sha256 {hashlib.sha256(content).hexdigest()[:12]}"


def _named(tokens: Iterable[str]) -> str:
    listed = list(tokens)
    more = f", … {len(listed) - MOST_NAMED:,} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more
