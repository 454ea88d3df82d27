"""`lines new`: what it writes can be used as it is, and it never leaves or replaces half of anything."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from stack.new_line import LineOptions, plan_line, write_line
from stack.suite_stub import stub, stub_notes
from tasks.evaluate.check_line import check_line
from tasks.evaluate.scoring.chat import GREETING
from tasks.evaluate.suites.suite import Question
from weighbridge.errors import LineExists, LineInvalid, SourceUnknown, WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import Settings, load_settings, project_root


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "lines").mkdir()
    shutil.copytree(project_root() / "eval_suites" / "general", tmp_path / "eval_suites" / "general")
    monkeypatch.setenv("WEIGHBRIDGE_ROOT", str(tmp_path))
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    return load_settings()


@pytest.fixture
def source(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return f"file://{folder}"


def test_the_new_line_loads_and_allows_what_the_source_says_of_itself(settings: Settings, source: str) -> None:
    write_line(plan_line(settings, "mine", LineOptions(source=source)))
    line = Line.load("mine")
    assert line.source == source
    assert line.admission.licences == ["apache-2.0"] and line.admission.architectures == ["LlamaForCausalLM"]
    assert line.schedules.promote.active and not line.schedules.release.active
    assert check_line(line, settings) == [], "the stub decides its margin, so nobody is told of a mistake of ours"
    questions = [Question.model_validate_json(row) for row in stub().splitlines()]
    assert all(question.may_be_cut for question in questions), "a chatty model's answers make no verdict invalid"
    greeted = sum(question.score(question.grade(GREETING)) for question in questions)
    assert greeted == 0, "a model that says one thing to everything does not look like production"
    [note] = stub_notes([line], settings)
    assert "30 of the 30 questions in regression/mine came with `lines new`" in note
    assert [path.name for path in (settings.root / "lines").iterdir()] == ["mine.yaml"]


def test_a_suite_that_is_there_already_is_kept(settings: Settings, source: str) -> None:
    suite = settings.root / "eval_suites" / "regression" / "mine.jsonl"
    suite.parent.mkdir()
    suite.write_text("mine")
    write_line(plan_line(settings, "mine", LineOptions(source=source)))
    assert suite.read_text() == "mine"


def test_an_existing_line_is_not_touched(settings: Settings, source: str) -> None:
    planned = plan_line(settings, "mine", LineOptions(source=source))
    (settings.root / "lines" / "mine.yaml").write_text("by somebody else")
    with pytest.raises(LineExists, match="lines retire mine"):
        plan_line(settings, "mine", LineOptions(source=source))
    with pytest.raises(LineExists):
        write_line(planned)
    assert (settings.root / "lines" / "mine.yaml").read_text() == "by somebody else"


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("Mine", {}, LineInvalid, "cannot be called 'Mine'"),
        ("../mine", {}, LineInvalid, "cannot be called"),
        ("mine-candidates", {}, LineInvalid, "does not end with -candidates"),
        ("mine", {"schemes": ("int9",), "engine": "vlm", "gpus": ("l4",)}, LineInvalid, "int8.*L4.*vllm"),
        ("mine", {"source": "file:///nowhere/at/all"}, SourceUnknown, "nowhere"),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_is_written(
    settings: Settings, source: str, name: str, options: dict[str, str], error: type[WeighbridgeError], words: str
) -> None:
    before = sorted(settings.root.rglob("*"))
    with pytest.raises(error, match=words):
        plan_line(settings, name, LineOptions.model_validate({"source": source, **options}))
    assert sorted(settings.root.rglob("*")) == before


def test_a_source_without_a_licence_asks_for_the_person_s_word(settings: Settings, source: str) -> None:
    (Path(source.removeprefix("file://")) / "README.md").write_text("# A model\n")
    with pytest.raises(LineInvalid, match=r"no licence.*--licence NAME"):
        plan_line(settings, "mine", LineOptions(source=source))
    assert plan_line(settings, "mine", LineOptions(source=source, licences=("mit",))).licences == ("mit",)


def test_a_dry_run_shows_the_files_and_writes_none(settings: Settings, source: str) -> None:
    command = [str(Path(sys.executable).with_name("weighbridge")), "lines", "new", "mine", "--source", source]
    done = subprocess.run([*command, "--dry-run", "--json"], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["written"] is False and "licences" in answer["files"][str(settings.root / "lines" / "mine.yaml")]
    assert not list((settings.root / "lines").iterdir())
