"""`weighbridge suite` as a user meets it: real processes, their output and exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
prompts: ['Answer in one word: {{q}}']
providers: [openai:gpt-4.1]
tests:
  - {vars: {q: What is the capital of France?}, assert: [{type: icontains, value: Paris}]}
  - {vars: {q: What is 2 + 2?}, assert: [{type: equals, value: 4}, {type: javascript, value: 'output.length < 3'}]}
"""


@pytest.fixture
def team(tmp_path: Path) -> Path:
    (tmp_path / "geo-bot").mkdir()
    (tmp_path / "geo-bot/promptfooconfig.yaml").write_text(CONFIG)
    return tmp_path


def suite(team: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {"WEIGHBRIDGE_ROOT": str(team), "WEIGHBRIDGE_HOME": str(team / "home"), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "suite", *arguments],
        capture_output=True,
        text=True,
        cwd=team,
        env={**os.environ, **own},
        check=False,
    )


def test_import_lists_what_is_lost_and_check_takes_it_from_there(team: Path) -> None:
    done = suite(team, "import", "geo-bot/promptfooconfig.yaml")
    assert done.returncode == 0, done.stderr
    assert "test 2" in done.stdout
    assert "javascript" in done.stdout
    assert "2 items of 2 tests" in done.stdout
    assert "weighbridge suite check geo-bot" in done.stdout
    assert "Providers are ignored" in done.stderr
    assert (team / "eval_suites/regression/geo-bot.jsonl").read_text().count("\n") == 2
    checked = suite(team, "check", "geo-bot")
    assert checked.returncode == 0, checked.stderr
    assert "regression/geo-bot: 2 items, no error, 1 warning" in checked.stdout


def test_strict_import_writes_nothing_and_says_so_in_json(team: Path) -> None:
    done = suite(team, "import", "geo-bot/promptfooconfig.yaml", "--strict", "--json")
    assert done.returncode == 23
    answer = json.loads(done.stdout)
    assert answer["error"] == "ImportIncomplete"
    assert [lost["test"] for lost in answer["lost"]] == [2]
    assert answer["written"] is False
    assert not (team / "eval_suites").exists()


def test_a_dry_run_and_a_file_of_ones_own(team: Path) -> None:
    done = suite(team, "import", "geo-bot/promptfooconfig.yaml", "-o", "mine.jsonl", "--dry-run")
    assert done.returncode == 0
    assert "would be written" in done.stdout
    assert not (team / "mine.jsonl").exists()
    assert suite(team, "import", "geo-bot/promptfooconfig.yaml", "-o", "mine.jsonl").returncode == 0
    (team / "mine.jsonl").write_text((team / "mine.jsonl").read_text().replace("Paris", "Rome"))
    refused = suite(team, "import", "geo-bot/promptfooconfig.yaml", "-o", "mine.jsonl")
    assert (refused.returncode, refused.stderr.split(":")[0]) == (2, "SuiteExists")
    assert suite(team, "import", "geo-bot/promptfooconfig.yaml", "-o", "mine.jsonl", "--force").returncode == 0
    assert "Paris" in (team / "mine.jsonl").read_text()


def test_a_flawed_suite_fails_by_name_with_its_own_status(team: Path) -> None:
    (team / "bad.jsonl").write_text('{"id": "a"\n')
    done = suite(team, "check", "bad.jsonl")
    assert done.returncode == 24
    assert "bad.jsonl:1" in done.stdout
    assert done.stderr.startswith("SuiteFlawed: bad has 1 error and 0 warnings.")
    as_json = suite(team, "check", "bad.jsonl", "--json")
    answer = json.loads(as_json.stdout)
    assert (as_json.returncode, answer["error"], answer["findings"][0]["code"]) == (24, "SuiteFlawed", "broken-line")


def test_warnings_fail_only_when_strict(team: Path) -> None:
    suite(team, "import", "geo-bot/promptfooconfig.yaml")
    assert suite(team, "check", "geo-bot", "--strict").returncode == 24
    wide = json.loads(suite(team, "check", "geo-bot", "--margin", "0.9", "--json").stdout)
    assert wide["power"]["margin"] == 0.9
    assert wide["items"] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("import", "gone.yaml"), 2, "ImportRefused"),
        (("import", "geo-bot/promptfooconfig.yaml", "--name", "../x"), 2, "SuiteUnknown"),
        (("import", "geo-bot/promptfooconfig.yaml", "--name", "x", "-o", "y"), 2, "not both"),
        (("check", "gone"), 2, "SuiteUnknown"),
        (("check", "gone", "--margin", "3"), 2, "--margin"),
    ],
)
def test_a_usage_error_is_one_message(team: Path, arguments: tuple[str, ...], status: int, message: str) -> None:
    done = suite(team, *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
