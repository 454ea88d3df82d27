"""`check_line`: a name that nothing installed answers to is a problem with its field, and a suggestion."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluate.check_line import check_line, check_names
from weighbridge.line import Line, line_names
from weighbridge.settings import Settings, load_settings, project_root

FIELDS: dict[str, Any] = {
    "source": "hf://org/toy",
    "admission": {"licences": ["mit"]},
    "schemes": ["int8", "int4"],
    "target": {"gpus": ["host", "L4"]},
    "quantize": {"schemes": {"int4": {"methods": ["rtn"]}}},
    "engine": {"name": "vllm"},
    "suites": [{"name": "general/choice", "margin": 0.08}, {"name": "regression/toy", "margin": 0.2}],
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    ours = project_root() / "eval_suites"
    monkeypatch.setenv("WEIGHBRIDGE_ROOT", str(tmp_path))
    shutil.copytree(ours / "general", tmp_path / "eval_suites" / "general")
    (tmp_path / "eval_suites" / "regression").mkdir()
    shutil.copy(ours / "regression" / "smollm2.jsonl", tmp_path / "eval_suites" / "regression" / "toy.jsonl")
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
        suites=[{"name": "general/none"}, {"name": "regression/toy", "margin": 0.2}],
    )
    fields = ["schemes.0", "target.gpus.0", "quantize.schemes.int4.methods.0", "engine.name", "suites.0.name"]
    assert [problem.split(":")[0] for problem in found] == fields


def test_the_next_step_lists_known_names(settings: Settings) -> None:
    (settings.root / "lines" / "toy.yaml").write_text(yaml.safe_dump({**FIELDS, "engine": {"name": "nosuch"}}))
    assert "vllm" in check_line(Line.load("toy"), settings)[0].next_step


@pytest.mark.parametrize("name", line_names())
def test_the_projects_own_lines_have_no_problem(name: str) -> None:
    assert check_line(Line.load(name), load_settings()) == []


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("apach-2.0", "; did you mean Apache-2.0?"),
        ("mitt", "; did you mean MIT?"),
        ("Apache 2.0", ""),
        ("llama3.9", ""),
        ("our-own-terms", ""),
    ],
)
def test_a_misspelt_licence_is_a_mistake_and_an_unknown_one_is_not(
    settings: Settings, name: str, suggestion: str
) -> None:
    found = problems(settings, admission={"licences": [name]})
    assert found == ([f"admission.licences.0: there is no licence called {name!r}{suggestion}"] if suggestion else [])


def test_a_suite_that_can_never_decide_its_margin_is_a_mistake(settings: Settings) -> None:
    suite = settings.root / "eval_suites" / "regression" / "toy.jsonl"
    suite.write_text("".join(suite.read_text().splitlines(keepends=True)[:13]))
    [found] = problems(settings)
    assert found.startswith("suites.1.margin: regression/toy has 13 items") and "fewer than 14" in found
    suite.write_text("{")
    [found] = problems(settings)
    assert "toy.jsonl" in found


def test_unknown_names_are_found_beside_mistakes_of_form(settings: Settings) -> None:
    fields = {"schemes": ["int9", 4], "target": {"gpus": "L4"}, "engine": {"name": "vlm"}, "suites": [{"nme": "x"}]}
    found = [problem.what for problem in check_names("toy", fields, settings)]
    assert [what.split(":")[0] for what in found] == ["schemes.0", "engine.name"]
    assert check_names("toy", ["no", "mapping"], settings) == []
