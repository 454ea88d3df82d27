"""Suites on disk: the project's own, digests, and errors that name file and line."""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path

import pytest

from tasks.evaluate.suites.suite import find_suite, list_suites, questions_of, task_config
from weighbridge.errors import SuiteInvalid, SuiteUnknown
from weighbridge.home import project_root

GENERAL = ("agreement", "choice", "copying", "long_retrieval", "retrieval")
YAML = """
task: pets
dataset_path: json
dataset_kwargs: {data_files: {test: pets.jsonl}}
test_split: test
output_type: multiple_choice
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for kind in ("general", "regression"):
        (tmp_path / "eval_suites" / kind).mkdir(parents=True)
    (tmp_path / "eval_suites/general/pets.yaml").write_text(YAML)
    (tmp_path / "eval_suites/general/pets.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
    return tmp_path


def question(**changes: object) -> str:
    row = {
        "id": "hello",
        "messages": [{"role": "user", "content": "Hello!"}],
        "assert": [{"type": "contains", "value": "Hi"}],
        **changes,
    }
    return json.dumps({key: value for key, value in row.items() if value is not None}) + "\n"


def regression(root: Path, *lines: str) -> Path:
    path = root / "eval_suites/regression/chat.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("task", GENERAL)
def test_make_reproduces_the_committed_items(task: str) -> None:
    folder = project_root() / "eval_suites/general"
    lines = runpy.run_path(str(folder / "make.py"))["lines"](task)
    assert lines == (folder / f"{task}.jsonl").read_text()


def test_the_projects_own_suites_are_usable() -> None:
    suites = [find_suite(name) for name in list_suites()]
    assert {suite.name for suite in suites} >= {f"general/{task}" for task in GENERAL} | {"regression/smollm2"}
    assert sum(suite.items for suite in suites if suite.kind == "general") > 500
    assert len({suite.digest for suite in suites}) == len(suites)


def test_regression_suites_have_must_pass_items() -> None:
    for name in ("smollm2", "llama"):
        questions = questions_of(find_suite(f"regression/{name}").path)
        assert 0 < sum(question.must_pass for question in questions) < len(questions)


def test_right_options_are_spread_over_all_places() -> None:
    for task in ("choice", "retrieval", "long_retrieval"):
        rows = [json.loads(line) for line in find_suite(f"general/{task}").path.with_suffix(".jsonl").open()]
        places = [row["answer"] for row in rows]
        assert all(0.15 < places.count(place) / len(places) < 0.35 for place in range(4))
        assert all(len(set(row["options"])) == 4 for row in rows)


@pytest.mark.parametrize("name", ["retrieval", "long_retrieval"])
def test_every_retrieval_fact_occurs_once_on_its_page(name: str) -> None:
    for line in find_suite(f"general/{name}").path.with_suffix(".jsonl").open():
        row = json.loads(line)
        assert row["text"].count(f"{row['question']} {row['options'][row['answer']]}.") == 1
        assert all(option in row["text"] for option in row["options"])


def test_the_digest_depends_on_definition_and_items(root: Path) -> None:
    first = find_suite("general/pets", root)
    assert first.ids == ("a", "b")
    (root / "eval_suites/general/pets.jsonl").write_text('{"id": "a"}\n{"id": "c"}\n')
    second = find_suite("general/pets", root)
    (root / "eval_suites/general/pets.yaml").write_text(YAML + "num_fewshot: 0\n")
    third = find_suite("general/pets", root)
    assert len({first.digest, second.digest, third.digest}) == 3
    assert all(len(digest) == len(hashlib.sha256().hexdigest()) for digest in (first.digest, third.digest))


def test_the_data_file_is_absolute(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = find_suite("general/pets", root)
    monkeypatch.chdir("/")
    assert Path(task_config(suite)["dataset_kwargs"]["data_files"]["test"]).is_file()


def test_a_suite_changed_after_it_was_found_is_not_scored(root: Path) -> None:
    suite = find_suite("general/pets", root)
    (root / "eval_suites/general/pets.jsonl").write_text('{"id": "z"}\n')
    with pytest.raises(SuiteInvalid, match="changed"):
        task_config(suite)


def test_an_unknown_suite_is_refused_with_the_known_ones(root: Path) -> None:
    with pytest.raises(SuiteUnknown, match="general/pets"):
        find_suite("general/cars", root)
    with pytest.raises(SuiteUnknown):
        find_suite("general/../general/pets", root)


@pytest.mark.parametrize(
    ("lines", "place", "reason"),
    [
        ([question(), "{oops\n"], "chat.jsonl:2", "not JSON"),
        ([question(), "\n", question()], "chat.jsonl:3", "line 1"),
        ([question(id=None)], "chat.jsonl:1", "id"),
        ([question(messages=None)], "chat.jsonl:1", "messages"),
        ([question(**{"assert": []})], "chat.jsonl:1", "assert"),
        ([question(must_past=True)], "chat.jsonl:1", "must_past"),
        ([question(max_tokens=0)], "chat.jsonl:1", "max_tokens"),
        ([question(**{"assert": [{"type": "llm-rubric", "value": "polite"}]})], "chat.jsonl:1", "llm-rubric"),
        (["\n"], "chat.jsonl:1", "no items"),
    ],
)
def test_an_invalid_line_is_named(root: Path, lines: list[str], place: str, reason: str) -> None:
    regression(root, *lines)
    with pytest.raises(SuiteInvalid, match=reason) as caught:
        find_suite("regression/chat", root)
    assert caught.value.where.endswith(place)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("task: [", "pets.yaml"),
        ("task: cars\n", "task: pets"),
        (YAML.replace("multiple_choice", "loglikelihood"), "output_type"),
        (YAML.replace("pets.jsonl", "gone.jsonl"), "gone.jsonl"),
        (YAML.replace("{data_files: {test: pets.jsonl}}", "nothing"), "data_files"),
        (YAML + "doc_to_text: !function code.run\n", "function"),
    ],
)
def test_an_invalid_task_definition_is_named(root: Path, text: str, reason: str) -> None:
    (root / "eval_suites/general/pets.yaml").write_text(text)
    with pytest.raises(SuiteInvalid, match=reason) as caught:
        find_suite("general/pets", root)
    assert "pets.yaml:" in caught.value.where
