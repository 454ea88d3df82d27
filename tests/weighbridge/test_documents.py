"""YAML, JSON and text that others wrote: every fault is one named error with its place, and none ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.mutation import blobs, documents, examples, json_files
from weighbridge.documents import parse_json, parse_yaml, read_json, read_utf8, read_yaml
from weighbridge.errors import DocumentInvalid, LineInvalid
from weighbridge.line import Line

ROOT = Path(__file__).parents[2]
LINE = (ROOT / "lines" / "smollm2.yaml").read_bytes()
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{','.join(['*' + chr(97 + level)] * 10)}]\n" for level in range(8)
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"source: \xff\xfe\n", "not UTF-8"),
        (b"a: " + b"[" * 100_000, "nested more than 64"),
        (b"- " * 100_000, "nested more than 64"),
        (b"? " * 100_000, "nested more than 64"),
        (BOMB.encode(), "values, aliases written out"),
        (b"a: &a [*a]", "contains itself"),
        (b"a: 1\nb: 2\na: 3\n", "'a' occurs twice, first in line 1"),
        (b"x:\n  a: 1\n  a: 2\n", "'a' occurs twice"),
        (b"a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        (b"a: 1\n---\nb: 2\n", "expected a single document"),
        (b"a: " + b"9" * 5000, "cannot be read"),
        (b"a: 2001-02-31", "cannot be read"),
        (b"a: !!int x", "cannot be read"),
        (b"? [a]\n: b", "unhashable"),
        (b"a: \0", "not allowed"),
        (b"a: {", "expected"),
    ],
)
def test_a_hostile_yaml_file_is_one_named_error(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(DocumentInvalid, match=says) as caught:
        read_yaml(path)
    assert str(path) in caught.value.where
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff{}", "not UTF-8"),
        (b"[" * 1_000_000, "nested"),
        (b"[" * 200 + b"]" * 200, "nested more than 64"),
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b"9" * 5000, "digits"),
        (b'"\\ud800"', "surrogates not allowed"),
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
    ],
)
def test_a_hostile_json_file_is_one_named_error(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DocumentInvalid, match=says):
        read_json(path)


def test_a_fault_is_named_with_line_and_column() -> None:
    with pytest.raises(DocumentInvalid) as caught:
        parse_yaml("a: 1\nb: {c: 1, c: 2}\n", "lines/m.yaml")
    assert caught.value.where == "lines/m.yaml, line 2, column 11"
    with pytest.raises(DocumentInvalid) as caught:
        parse_json('{"a":\n  oops}', "config.json")
    assert caught.value.where == "config.json, line 2, column 3"


def test_aliases_and_merges_that_stay_small_are_read() -> None:
    text = "base: &base {a: 1}\nother: {<<: *base, b: 2}\nagain: [*base, *base]\n"
    assert parse_yaml(text, "") == {"base": {"a": 1}, "other": {"a": 1, "b": 2}, "again": [{"a": 1}, {"a": 1}]}


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DocumentInvalid, match="not a regular file"):
        read_utf8(tmp_path / "pipe")


def test_a_folder_is_refused_and_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(DocumentInvalid, match="not a regular file"):
            read_utf8(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_beyond_the_limit_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"a: 1\n" * 100)
    with pytest.raises(DocumentInvalid, match="larger than 100 bytes"):
        read_yaml(path, max_bytes=100)


@examples()
@given(blobs(LINE))
def test_a_mutated_line_is_a_line_or_line_invalid(content: bytes) -> None:
    _load(content)


@examples()
@given(documents(yaml.safe_load(LINE)))
def test_a_line_with_values_of_other_types_is_a_line_or_line_invalid(fields: Any) -> None:
    _load(yaml.safe_dump(fields).encode())


@examples()
@given(json_files({"a": [1, {"b": "c"}], "d": None}))
def test_mutated_json_is_a_value_or_document_invalid(content: bytes) -> None:
    try:
        parse_json(content, "x.json")
    except DocumentInvalid as error:
        assert error.what and error.next_step


@examples()
@given(st.text(alphabet=list("&*[]{}<>:-?!|%@`'\"# \n\tab1~,."), max_size=200))
def test_any_text_is_yaml_or_document_invalid(text: str) -> None:
    try:
        parse_yaml(text, "x.yaml")
    except DocumentInvalid as error:
        assert error.what and error.next_step


def _load(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "m.yaml").write_bytes(content)
        try:
            assert Line.load("m", Path(folder)).name == "m"
        except LineInvalid as error:
            assert error.what and error.next_step and "m.yaml" in error.where


@pytest.mark.parametrize("content", [b"source: \xff\n", b"source: " + b"[" * 100_000, None])
def test_one_broken_line_hides_no_other(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "lines").mkdir()
    (tmp_path / "eval_suites").symlink_to(ROOT / "eval_suites")
    (tmp_path / "lines" / "smollm2.yaml").write_bytes(LINE)
    if content is None:
        (tmp_path / "lines" / "aaa.yaml").symlink_to("/nonexistent")
    else:
        (tmp_path / "lines" / "aaa.yaml").write_bytes(content)
    command = [sys.executable, "-c", "from cli.main import run; run()"]
    environment = {**os.environ, "WEIGHBRIDGE_ROOT": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    found = subprocess.run([*command, "lines", "--json"], env=environment, capture_output=True, check=False, text=True)
    answer = parse_json(found.stdout, "answer")
    assert found.returncode == 2
    assert [line["name"] for line in answer["lines"]] == ["smollm2"]
    assert len(answer["problems"]) == 1
