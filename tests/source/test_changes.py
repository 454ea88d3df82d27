"""Changes between two releases other than their weights, as a reviewer reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from registry.store import Artifact, Store
from tasks.source.changes import (
    ChangeReport,
    SmallFiles,
    changes_against,
    changes_between,
    changes_markdown,
    files_of_folder,
    files_of_source,
)
from tasks.source.provider import pin
from weighbridge.errors import SourceRefused
from weighbridge.line import Line

TEMPLATE = """{% for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
"""
TOKENIZER: dict[str, Any] = {
    "added_tokens": [{"id": 3, "content": "<|im_end|>", "special": True, "normalized": False}],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "byte_fallback": False},
}
SETTINGS = {"eos_token": "<|im_end|>", "add_bos_token": False, "tokenizer_class": "PreTrainedTokenizerFast"}
GENERATION = {"eos_token_id": 3, "temperature": 0.6, "transformers_version": "4.50"}


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., Path]:
    """A release's folder; keyword arguments change its files, None leaves one out."""

    def make(name: str, licence: str = "apache-2.0", config: Any = None, **files: Any) -> Path:
        folder = tiny.build(tmp_path / name, licence=licence, **{"max_position_embeddings": 4096, **(config or {})})
        contents = {
            "chat_template.jinja": TEMPLATE,
            "tokenizer.json": TOKENIZER,
            "tokenizer_config.json": SETTINGS,
            "generation_config.json": GENERATION,
        }
        for path, content in {**contents, **files}.items():
            if content is None:
                (folder / path).unlink(missing_ok=True)
            else:
                (folder / path).write_text(content if isinstance(content, str) else json.dumps(content))
        return folder

    return make


def between(before: Path, after: Path) -> ChangeReport:
    return changes_between(files_of_folder(before), files_of_folder(after))


def as_dict(report: ChangeReport) -> dict[str, tuple[str, str, str]]:
    return {
        f"{change.kind}: {change.what}": (change.before, change.after, change.severity) for change in report.changes
    }


def test_no_change_is_reported_as_such(release: Callable[..., Path]) -> None:
    report = between(release("old"), release("new"))
    assert (report.changes, report.sentence) == ((), "Nothing changed except the weights.")
    assert changes_markdown(report).startswith("**Nothing changed** except the weights (`new` against `old`)")


def test_a_changed_chat_template_is_a_warning_with_a_readable_diff(release: Callable[..., Path]) -> None:
    changed = TEMPLATE.replace("{% for", "You are helpful.\n{% for", 1)
    report = between(release("old"), release("new", **{"chat_template.jinja": changed}))
    assert [(change.kind, change.severity) for change in report.changes] == [("chat template", "warn")]
    assert "+You are helpful." in report.changes[0].diff.splitlines()
    assert "```diff\n" in changes_markdown(report)
    assert "```" not in changes_markdown(report, diffs=False)
    assert report.sentence == "Changed, apart from the weights: chat template (default)."


def test_a_template_that_only_moved_is_the_same(release: Callable[..., Path]) -> None:
    inside = {**SETTINGS, "chat_template": TEMPLATE}
    old = release("old", **{"chat_template.jinja": None, "tokenizer_config.json": inside})
    listed = {**SETTINGS, "chat_template": [{"name": "default", "template": TEMPLATE}]}
    new = release("new", **{"chat_template.jinja": None, "tokenizer_config.json": listed})
    assert between(old, release("alone")).changes == ()
    assert between(old, new).changes == ()
    # The file goes before the field, as transformers reads them.
    both = release("both", **{"chat_template.jinja": "other", "tokenizer_config.json": inside})
    assert [change.kind for change in between(old, both).changes] == ["chat template"]


def test_a_template_in_one_line_is_broken_for_its_diff(release: Callable[..., Path]) -> None:
    one_line = "{% if a %}" + "".join(f"{{{{ part_{number} }}}}" for number in range(60)) + "{% endif %}"
    old = release("old", **{"chat_template.jinja": one_line})
    new = release("new", **{"chat_template.jinja": one_line.replace("part_30 ", "part_thirty ")})
    diff = between(old, new).changes[0].diff.splitlines()
    assert "-{{ part_30 }}" in diff
    assert len(diff) < 12


def test_generation_config_changes_that_affect_answers_are_reported(release: Callable[..., Path]) -> None:
    changed = {"eos_token_id": [3, 7], "temperature": 0.7, "transformers_version": "5.0", "max_length": 9}
    assert as_dict(between(release("old"), release("new", **{"generation_config.json": changed}))) == {
        "generation config: eos_token_id": ("3", "[3, 7]", "warn"),
        "generation config: temperature": ("0.6", "0.7", "warn"),
        "generation config: max_length": ("–", "9", "info"),
    }


def test_each_part_of_the_tokenizer_is_compared(release: Callable[..., Path]) -> None:
    changed = {
        **TOKENIZER,
        "added_tokens": [{"id": 5, "content": "<|im_end|>", "special": True, "normalized": False}],
        "normalizer": {"type": "NFC"},
        "model": {**TOKENIZER["model"], "vocab": {"a": 1, "b": 0, "ab": 2, "c": 3}, "merges": [["a", "b"], ["b", "c"]]},
    }
    found = as_dict(between(release("old"), release("new", **{"tokenizer.json": changed})))
    assert found["tokenizer: vocabulary"] == (
        "3 tokens",
        "4 tokens: 1 added (c), 2 with another id (a, b)",
        "warn",
    )
    assert found["tokenizer: merges"] == ("1", "2, 1 of them new", "warn")
    assert found["tokenizer: normalizer"] == ("–", '{"type": "NFC"}', "warn")
    assert found["special tokens: eos_token"] == ("<|im_end|> (3)", "<|im_end|> (5)", "warn")
    assert '"id": 5' in found["tokenizer: added token <|im_end|>"][1]


def test_merges_written_the_newer_way_are_the_same(release: Callable[..., Path]) -> None:
    newer = {**TOKENIZER, "model": {**TOKENIZER["model"], "merges": [["a", "b"]]}}
    assert between(release("old"), release("new", **{"tokenizer.json": newer})).changes == ()


def test_other_tokenizer_files_are_compared_by_hash(release: Callable[..., Path]) -> None:
    old = release("old", **{"tokenizer.json": None, "tokenizer.model": "one"})
    new = release("new", **{"tokenizer.json": None, "tokenizer.model": "two"})
    assert [change.what for change in between(old, new).changes] == ["tokenizer.model"]


def test_config_fields_that_matter(release: Callable[..., Path]) -> None:
    old = release("old", config={"rope_theta": 10000, "rope_scaling": {"type": "linear", "factor": 2}})
    same = {"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 10000.0}, "torch_dtype": "bfloat16"}
    assert between(old, release("same", config=same)).changes == ()
    new = release("new", config={"rope_theta": 500000, "max_position_embeddings": 8192, "intermediate_size": 512})
    found = as_dict(between(old, new))
    assert found["config: max_position_embeddings"] == ("4096", "8192", "warn")
    assert "500000" in found["config: rope"][1]
    assert found["config: intermediate_size"] == ("256", "512", "info")


def test_a_licence_that_changed_is_a_warning(release: Callable[..., Path]) -> None:
    found = as_dict(between(release("old"), release("new", licence="cc-by-nc-4.0", LICENSE="Not for sale.")))
    assert found["licence: license"] == ("apache-2.0", "cc-by-nc-4.0", "warn")
    assert found["licence: LICENSE"] == ("–", "Not for sale.", "warn")


def test_published_text_is_escaped_in_table_cells(release: Callable[..., Path]) -> None:
    hostile = {**SETTINGS, "eos_token": "| **x** </td>\n<script>"}
    report = between(release("old"), release("new", **{"tokenizer_config.json": hostile}))
    text = changes_markdown(report, diffs=False)
    assert "<script>" not in text.replace("\\<", "")
    assert all(line.count("|") - line.count("\\|") == 5 for line in text.splitlines() if line.startswith("|"))
    fenced = TEMPLATE + "````\n"
    assert "`````diff" in changes_markdown(between(release("a"), release("b", **{"chat_template.jinja": fenced})))


def test_invalid_json_is_named(release: Callable[..., Path]) -> None:
    with pytest.raises(SourceRefused, match=r"generation_config\.json of new"):
        between(release("old"), release("new", **{"generation_config.json": "{"}))


def test_files_on_the_hub_are_read_at_the_commit(hub: Any, release: Callable[..., Path], line: Line) -> None:
    old = release("old")
    hub.publish(release("new", **{"chat_template.jinja": "other"}))
    source = pin(hub.installation, line)
    report = changes_between(files_of_folder(old), files_of_source(hub.provider, source))
    assert (report.after, [change.kind for change in report.changes]) == (source.short, ["chat template"])


def test_production_is_compared_with_a_release_in_the_store(release: Callable[..., Path]) -> None:
    folders = {"1" * 64: release("old"), "2" * 64: release("new", **{"chat_template.jinja": "x"})}

    class Shelf(Store):
        def path(self, artifact: Artifact, progress: object = None) -> Path:
            return folders[artifact.digest]

    production, weights = (
        Artifact(line="tiny", digest=digest, scheme="bf16", repo="acme/tiny", commit=digest[:40], size_bytes=1)
        for digest in folders
    )
    report = changes_against(production, weights, Shelf())
    assert report and (report.before, report.after) == ("acme/tiny@111111111111", "acme/tiny@222222222222")
    assert [change.kind for change in report.warnings] == ["chat template"]
    assert changes_against(None, weights, Shelf()) is None


def test_a_file_too_large_to_read_is_reported(release: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.source.changes.files.MAX_FILE_BYTES", 200)
    report = between(release("old"), release("new"))
    assert "tokenizer.json" in report.unread
    assert "Too large to be compared" in changes_markdown(report)
    assert SmallFiles(name="x", contents={}).json_of("config.json") == {}
