"""Compare tokenizers: how text becomes tokens, and which special tokens end an answer."""

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
"""Tokens listed by name; the rest are counted."""


def tokenizer_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Compare vocabulary, added tokens, merges and every stage from text to tokens."""
    old, new = before.json_of(TOKENIZER), after.json_of(TOKENIZER)
    if not (old and new):
        found = _files(before, after)
    else:
        found = [*_vocabulary(old, new), *_added(old, new), *_merges(old, new)]
        for name in STAGES:
            found += change("tokenizer", name, old.get(name), new.get(name), "warn")
        models = [tokenizer.get("model") or {} for tokenizer in (old, new)]
        for name in MODEL_SETTINGS:
            found += change("tokenizer", f"model.{name}", models[0].get(name), models[1].get(name), "warn")
    settings = [files.json_of(TOKENIZER_CONFIG) for files in (before, after)]
    for name in WARNED_FIELDS:
        found += change("tokenizer", name, settings[0].get(name), settings[1].get(name), "warn")
    for name in ("tokenizer_class", "model_max_length"):
        found += change("tokenizer", name, settings[0].get(name), settings[1].get(name), "info")
    return found


def special_token_changes(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Compare special tokens and their ids, such as the end of an answer, padding and unknown."""
    old, new = special_tokens(before), special_tokens(after)
    found: list[Change] = []
    for name in sorted(old.keys() | new.keys()):
        found += change("special tokens", name, old.get(name), new.get(name), "warn")
    return found


def special_tokens(files: SmallFiles) -> dict[str, str]:
    """Special tokens as `text (id)`, by role."""
    given = {**files.json_of("special_tokens_map.json"), **files.json_of(TOKENIZER_CONFIG)}
    ids = _ids(files)
    found = {name: _with_id(_content(given[name]), ids) for name in SPECIAL if given.get(name) is not None}
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if more := given.get(name):
            values = more.values() if isinstance(more, Mapping) else more
            found["additional_special_tokens"] = ", ".join(_with_id(_content(token), ids) for token in values)
    return found


def _ids(files: SmallFiles) -> dict[str, int]:
    tokenizer = files.json_of(TOKENIZER)
    ids = _tokens(tokenizer) | {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
    decoder = files.json_of(TOKENIZER_CONFIG).get("added_tokens_decoder") or {}
    return {**{_content(token): int(number) for number, token in decoder.items()}, **ids}


def _content(token: Any) -> str:
    return str(token.get("content")) if isinstance(token, Mapping) else str(token)


def _with_id(token: str, ids: Mapping[str, int]) -> str:
    return f"{token} ({ids[token]})" if token in ids else token


def _tokens(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """The vocabulary with its ids; a Unigram vocabulary is a list with scores, whose index is the id."""
    vocab = (tokenizer.get("model") or {}).get("vocab") or {}
    return dict(vocab) if isinstance(vocab, Mapping) else {entry[0]: number for number, entry in enumerate(vocab)}


def _vocabulary(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    before, after = _tokens(old), _tokens(new)
    moved = sorted(token for token in before.keys() & after.keys() if before[token] != after[token])
    differences = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "with another id": moved,
    }
    counts = [f"{len(tokens):,} {how} ({_named(tokens)})" for how, tokens in differences.items() if tokens]
    if not counts:
        return []
    return change(
        "tokenizer", "vocabulary", f"{len(before):,} tokens", f"{len(after):,} tokens: {', '.join(counts)}", "warn"
    )


def _added(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Compare added tokens: their ids, and how they are matched."""
    listed = [
        {str(token["content"]): {name: token[name] for name in sorted(token) if name != "content"} for token in tokens}
        for tokens in (old.get("added_tokens") or [], new.get("added_tokens") or [])
    ]
    changes: list[Change] = []
    for token in sorted(listed[0].keys() | listed[1].keys()):
        changes += change("tokenizer", f"added token {token}", listed[0].get(token), listed[1].get(token), "warn")
    if len(changes) <= MOST_NAMED:
        return changes
    names = [change.what.removeprefix("added token ") for change in changes]
    what = f"{len(listed[1]):,}, of which {len(changes):,} differ ({_named(names)})"
    return change("tokenizer", "added tokens", f"{len(listed[0]):,}", what, "warn")


def _merges(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Compare merges in order; newer files store pairs, older ones strings."""
    before, after = (
        [
            " ".join(merge) if isinstance(merge, list) else str(merge)
            for merge in (tokenizer.get("model") or {}).get("merges") or []
        ]
        for tokenizer in (old, new)
    )
    if before == after:
        return []
    others = len(set(after) - set(before))
    how = f"{others:,} of them new" if others else "in another order" if set(after) == set(before) else "fewer"
    return change("tokenizer", "merges", f"{len(before):,}", f"{len(after):,}, {how}", "warn")


def _files(before: SmallFiles, after: SmallFiles) -> list[Change]:
    """Compare tokenizer files by digest, for releases without tokenizer.json."""
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
