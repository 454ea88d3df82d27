"""`check_line`: a name that nothing installed answers to is a problem with its field, and a suggestion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluate.check_line import check_line
from weighbridge.line import Line, line_names
from weighbridge.settings import Settings, load_settings

FIELDS: dict[str, Any] = {
    "source": "hf://org/toy",
    "admission": {"licences": ["mit"]},
    "schemes": ["int8", "int4"],
    "target": {"gpus": ["host", "L4"]},
    "quantize": {"schemes": {"int4": {"methods": ["rtn"]}}},
    "engine": {"name": "vllm"},
    "suites": [{"name": "general/choice"}, {"name": "regression/toy"}],
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("WEIGHBRIDGE_ROOT", str(tmp_path))
    for name in ("general/choice.yaml", "general/retrieval.yaml", "regression/toy.jsonl"):
        (tmp_path / "eval_suites" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "eval_suites" / name).write_text("")
    (tmp_path / "lines").mkdir()
    return load_settings()


def problems(settings: Settings, **changed: Any) -> list[str]:
    (settings.root / "lines" / "toy.yaml").write_text(yaml.safe_dump({**FIELDS, **changed}))
    found = check_line(Line.load("toy"), settings)
    assert all(problem.where == "lines/toy.yaml" for problem in found)
    return [problem.what for problem in found]


def test_a_line_of_known_names_has_no_problem(settings: Settings) -> None:
    assert problems(settings) == []


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"engine": {"name": "nosuch"}}, "engine.name: there is no engine called 'nosuch'."),
        ({"engine": {"name": "vlm"}}, "engine.name: there is no engine called 'vlm'; did you mean vllm?"),
        ({"schemes": ["int8", "int9"]}, "schemes.1: there is no scheme called 'int9'; did you mean int8?"),
        ({"target": {"gpus": ["L44"]}}, "target.gpus.0: there is no GPU called 'L44'; did you mean L4?"),
        ({"target": {"gpus": ["h100"]}}, "target.gpus.0: there is no GPU called 'h100'; did you mean H100?"),
        (
            {"suites": [{"name": "general/none"}]},
            "suites.0.name: there is no suite called 'general/none'; did you mean general/choice?",
        ),
        (
            {"quantize": {"schemes": {"int4-asymm": {"methods": ["gtpq"]}}}},
            "quantize.schemes.int4-asymm: there is no scheme called 'int4-asymm'; did you mean int4-asym?",
        ),
    ],
)
def test_an_unknown_name_is_reported_with_its_field(settings: Settings, changed: dict[str, Any], problem: str) -> None:
    assert problems(settings, **changed)[0] == problem


def test_every_unknown_name_is_reported(settings: Settings) -> None:
    found = problems(
        settings,
        engine={"name": "nosuch"},
        schemes=["int9"],
        target={"gpus": ["L44", "host"]},
        quantize={"schemes": {"int4": {"methods": ["rnt", "gptq"]}}},
        suites=[{"name": "general/none"}, {"name": "regression/toy"}],
    )
    fields = ["schemes.0", "target.gpus.0", "quantize.schemes.int4.methods.0", "engine.name", "suites.0.name"]
    assert [problem.split(":")[0] for problem in found] == fields


def test_the_next_step_lists_known_names(settings: Settings) -> None:
    (settings.root / "lines" / "toy.yaml").write_text(yaml.safe_dump({**FIELDS, "engine": {"name": "nosuch"}}))
    assert "vllm" in check_line(Line.load("toy"), settings)[0].next_step


@pytest.mark.parametrize("name", line_names())
def test_the_projects_own_lines_have_no_problem(name: str) -> None:
    assert check_line(Line.load(name), load_settings()) == []
