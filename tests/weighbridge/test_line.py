"""Lines: read from YAML, and every mistake in a file is named with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from weighbridge.errors import LineInvalid, LineUnknown
from weighbridge.line import Line, line_names

GOOD = {
    "source": "hf://org/model",
    "admission": {"licences": ["apache-2.0"]},
    "schemes": ["int8"],
    "target": {"gpus": ["L4"]},
    "suites": [{"name": "general/choice"}],
}


def written(folder: Path, name: str = "m", **changes: Any) -> Path:
    fields = {**GOOD, **changes}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({k: v for k, v in fields.items() if v is not None}))
    return folder


def test_every_line_of_the_project_loads() -> None:
    names = line_names()
    assert {"smollm2", "llama"} <= set(names)
    for name in names:
        assert Line.load(name).name == name


def test_defaults_are_those_of_the_docs(tmp_path: Path) -> None:
    line = Line.load("m", written(tmp_path))
    assert (line.repo, line.revision, line.confidence) == ("org/model", "main", 0.95)
    assert line.rollout.steps == [1, 10, 50, 100]
    assert line.suites[0].margin == 0.02
    assert line.candidates_model == "m-candidates"


def test_unknown_line_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(LineUnknown, match="known lines: m") as caught:
        Line.load("nope", written(tmp_path))
    assert caught.value.exit_status == 2


def test_a_file_that_is_listed_and_no_line_says_why(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "Upper.yaml").write_text("")
    (folder / "folder.yaml").mkdir()
    (folder / "circle.yaml").symlink_to("circle.yaml")
    with pytest.raises(LineInvalid, match="cannot be called 'Upper'"):
        Line.load("Upper", folder)
    # Its reviewers' model would be the one that the pipeline writes for `m`: approved by nobody.
    (folder / "m-candidates.yaml").write_text((folder / "m.yaml").read_text())
    with pytest.raises(LineInvalid, match="cannot be called 'm-candidates'"):
        Line.load("m-candidates", folder)
    with pytest.raises(LineInvalid, match="not a regular file"):
        Line.load("folder", folder)
    with pytest.raises(LineInvalid, match="symbolic links"):
        Line.load("circle", folder)


@pytest.mark.parametrize("name", ["../m", "M", "", "a/b"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(LineUnknown):
        Line.load(name, written(tmp_path))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source": "meta-llama/Llama"}, "source"),
        ({"schemes": []}, "schemes"),
        ({"target": {"gpus": ["L4"], "contxt": 5}}, "target.contxt"),
        ({"confidence": 95}, "confidence"),
        ({"suites": [{"name": "mmlu"}]}, "suites.0.name"),
        ({"suites": [{"name": "general/choice", "margin": 2}]}, "suites.0.margin"),
        ({"rollout": {"steps": [50, 10, 100]}}, "rollout.steps"),
        ({"rollout": {"steps": [10, 50]}}, "rollout.steps"),
        ({"admission": None}, "admission"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(LineInvalid) as caught:
        Line.load("m", written(tmp_path, **changes))
    assert field in caught.value.what
    assert caught.value.where.endswith("m.yaml")


def test_all_wrong_fields_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(LineInvalid) as caught:
        Line.load("m", written(tmp_path, confidence=7, source="x"))
    assert "confidence" in caught.value.what
    assert "source" in caught.value.what


def test_an_unknown_field_is_met_with_the_one_that_it_resembles(tmp_path: Path) -> None:
    target = {"gpus": ["L4"], "contxt": 5}
    with pytest.raises(LineInvalid) as caught:
        Line.load("m", written(tmp_path, target=target, suits=[], zebra=1, name="m"))
    assert "target.contxt: unknown field (did you mean context?)" in caught.value.what
    assert "suits: unknown field (did you mean suites?)" in caught.value.what
    assert "zebra: unknown field" in caught.value.what and "zebra: unknown field (" not in caught.value.what


def test_bad_yaml_names_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("source: hf://a/b\nschemes: [int8\ntarget: {")
    with pytest.raises(LineInvalid) as caught:
        Line.load("m", tmp_path)
    assert "line 3" in caught.value.where


def test_a_list_is_not_a_line(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("- a\n- b\n")
    with pytest.raises(LineInvalid, match="mapping"):
        Line.load("m", tmp_path)
