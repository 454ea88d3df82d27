"""A file of paired scores: each kind of error names the line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.evaluate.verdict.sequential import read_pairs
from weighbridge.errors import PairsInvalid

GOOD = {"id": "a", "production": 1, "candidate": 0.5}


def write(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_good_file_is_read_in_full(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {**GOOD, "cluster": "doc", "margin": -2.5},
        "",
        {"id": 7, "production": 0, "candidate": None, "cluster": "doc", "margin": 1},
    )
    pairs = read_pairs(path)
    assert pairs.ids == ("a", "7")
    assert list(pairs.production) == [1.0, 0.0]
    assert np.isnan(pairs.candidate[1])
    assert pairs.clusters is not None and list(pairs.clusters) == [0, 0]
    assert pairs.production_confidence is not None and list(pairs.production_confidence) == [-2.5, 1.0]


def test_optional_fields_default_to_none(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, GOOD))
    assert pairs.clusters is None
    assert pairs.production_confidence is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{not json", "not JSON"),
        ("{} {}", "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ("{}, {}", "not JSON"),
        ({"production": 1, "candidate": 1}, "`id` is missing"),
        ({"id": True, "production": 1, "candidate": 1}, "`id` is missing"),
        ({"id": "b", "production": 1}, "`candidate` is missing"),
        ({"id": "b", "candidate": 1}, "`production` is missing"),
        ({"id": "b", "production": 1, "candidate": "1"}, "`candidate` is not a number"),
        ({"id": "b", "production": 1, "candidate": 1.01}, "`candidate` is not between"),
        ({"id": "b", "production": -0.1, "candidate": 1}, "`production` is not between"),
        ('{"id": "b", "production": 1, "candidate": NaN}', "`candidate` is not a finite"),
        ('{"id": "b", "production": Infinity, "candidate": 1}', "`production` is not a finite"),
        ({"id": "b", "production": 1, "candidate": 10**400}, "`candidate` is not a finite"),
        ({"id": "a", "production": 1, "candidate": 1}, "occurs twice"),
        ({"id": "b", "production": 1, "candidate": 1, "margin": 1}, "`margin` is missing"),
        ({"id": "b", "production": 1, "candidate": 1, "cluster": "x"}, "`cluster` is missing"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, problem: str) -> None:
    path = write(tmp_path, GOOD, "", line)
    with pytest.raises(PairsInvalid) as caught:
        read_pairs(path)
    assert problem in caught.value.what
    assert caught.value.where.startswith(str(path))
    # Where a field is on some lines only, the first line without it is to blame.
    blamed = 1 if problem in ("`margin` is missing", "`cluster` is missing") else 3
    assert caught.value.where == f"{path}:{blamed}"


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe"])
def test_an_empty_or_unreadable_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(PairsInvalid):
        read_pairs(path)
    with pytest.raises(PairsInvalid):
        read_pairs(tmp_path / "nowhere.jsonl")
