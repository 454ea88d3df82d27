"""Digests of a model's small files change exactly if the files' effect on answers changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples import tiny
from registry.store import Store, sha256_of
from tasks.evaluate.scoring import model_files
from tasks.evaluate.scoring.model_files import folder_digest, read_model_files
from weighbridge.errors import ModelUnreadable

TOKENIZER = {"version": "1.0", "truncation": None, "padding": None, "model": {"type": "BPE", "vocab": {"a": 0}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tiny.build(tmp_path / "model")
    write(folder, "tokenizer.json", TOKENIZER)
    write(folder, "tokenizer_config.json", {"chat_template": "{{ messages }}", "model_max_length": 512})
    write(folder, "generation_config.json", {"temperature": 0.2, "transformers_version": "5.1"})
    return folder


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def test_each_file_has_its_own_digest(folder: Path) -> None:
    before = read_model_files(folder)
    assert all(len(value) == 16 for value in (before.chat_template, before.tokenizer, before.generation_config))
    assert before.quantization == "none"
    write(folder, "tokenizer.json", {**TOKENIZER, "model": {"type": "BPE", "vocab": {"b": 0}}})
    after = read_model_files(folder)
    assert (after.tokenizer != before.tokenizer, after.chat_template) == (True, before.chat_template)


def test_a_converters_bookkeeping_changes_no_digest(folder: Path) -> None:
    before = read_model_files(folder)
    (folder / "tokenizer.json").write_text(json.dumps({**TOKENIZER, "padding": {"pad_id": 1}}, indent=2))
    write(folder, "generation_config.json", {"temperature": 0.2, "transformers_version": "5.17"})
    # transformers 5 moves the template to a file of its own.
    write(folder, "tokenizer_config.json", {"model_max_length": 512, "processor_class": "x"})
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "merges.txt").write_text("a b")
    assert read_model_files(folder) == before


def test_quantization_is_read_from_the_config(folder: Path) -> None:
    groups = {"group_0": {"weights": {"num_bits": 4}}}
    quantized = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    write(folder, "config.json", {**tiny.CONFIG, "quantization_config": quantized})
    assert read_model_files(folder).quantization == "compressed-tensors pack-quantized 4"


def test_a_broken_file_is_named(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelUnreadable, match="not JSON") as caught:
        read_model_files(folder)
    assert caught.value.where.endswith("tokenizer_config.json")


def test_a_folders_digest_is_the_stores(folder: Path, tmp_path: Path) -> None:
    digest = folder_digest(folder, tmp_path / "home")
    assert Store(tmp_path / "store").adopt(folder, line="toy", scheme="bf16", repo="a/b", commit="c").digest == digest


def test_a_folder_is_hashed_once_until_a_file_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder_digest(folder, tmp_path / "home")
    hashed: list[Path] = []

    def record(path: Path) -> str:
        hashed.append(path)
        return sha256_of(path)

    monkeypatch.setattr(model_files, "sha256_of", record)
    assert folder_digest(folder, tmp_path / "home") == first and not hashed
    (folder / "README.md").write_text("changed")
    assert folder_digest(folder, tmp_path / "home") != first and hashed


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match="empty"):
        folder_digest(tmp_path / "nothing", tmp_path / "home")
