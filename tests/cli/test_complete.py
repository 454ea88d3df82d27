"""Completion and `open`: what a person gets without remembering a name or an address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import complete
from cli.app import app
from tasks.engines import engine_names
from tasks.schemes import scheme_names
from weighbridge.settings import load_settings


def completed(typed: str, shell: str) -> str:
    words = typed.split(" ")
    variables = {
        "bash": {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": typed},
        "fish": {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    return subprocess.run(
        [sys.executable, "-c", "from cli.main import run; run()"],
        env={**os.environ, **variables, "_WEIGHBRIDGE_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_of_lines_and_commands_are_completed(shell: str) -> None:
    assert "smollm2" in completed("weighbridge approve smo", shell)
    assert "rollback" in completed("weighbridge rollb", shell)


def test_schemes_and_engines_are_those_of_the_project() -> None:
    assert set(scheme_names()) <= set(complete.schemes(""))
    assert set(complete.engines("")) == set(engine_names())
    assert complete.engines("vl") == ["vllm"]


def test_open_prints_the_addresses_of_a_line_where_there_is_no_display(tmp_path: Path) -> None:
    settings = load_settings()
    reports = settings.home / "reports" / "smollm2"
    missing = CliRunner().invoke(app, ["open", "smollm2", "--page", "report", "--print"])
    assert type(missing.exception).__name__ == "FileUnusable"
    reports.mkdir(parents=True)
    (reports / "abc.html").write_text("<p>report</p>")
    text = CliRunner().invoke(app, ["open", "smollm2"]).output
    assert f"{settings.mlflow_url}/#/models/smollm2-candidates" in text and "No display here" in text
    pages = json.loads(CliRunner().invoke(app, ["open", "smollm2", "--json"]).stdout)
    assert pages["report"] == (reports / "abc.html").as_uri()
    assert type(CliRunner().invoke(app, ["open", "nope"]).exception).__name__ == "LineUnknown"
