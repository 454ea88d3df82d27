"""The table of mistakes keeps its word: docs/mistakes.yaml, row by row.

A row's command runs in this process as `weighbridge` would, in an installation with one line and no stack.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from _pytest.capture import CaptureResult

from cli.main import run
from cli.output import documents
from examples import tiny
from stack.new_line import LineOptions, plan_line, write_line
from tests.support.ports import free_ports
from tests.support.shared_folder import shared_folder
from weighbridge.errors import all_errors
from weighbridge.settings import load_settings

CHECKOUT = Path(__file__).parents[2]
ROWS: list[dict[str, Any]] = yaml.safe_load((CHECKOUT / "docs" / "mistakes.yaml").read_text())
TYPED = [row for row in ROWS if "command" in row]
NAMED = [row for row in ROWS if "test" in row]
STATUS = {error.__name__: int(error.exit_status) for error in all_errors()}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation with a line as `lines new` makes it, and its model."""

    def make(root: Path) -> None:
        shutil.copytree(CHECKOUT / "eval_suites" / "general", root / "eval_suites" / "general")
        (root / "lines").mkdir()
        tiny.build(root / "model")
        settings = load_settings().model_copy(update={"root": root})
        write_line(plan_line(settings, "mine", LineOptions(source=f"file://{root / 'model'}")))
        shutil.copy(CHECKOUT / "prefect.yaml", root)

    return shared_folder(tmp_path_factory, "mistakes", make)


@pytest.fixture
def root(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as this process's installation, on ports that are free."""
    root = tmp_path / "root"
    shutil.copytree(template, root)
    monkeypatch.setenv("WEIGHBRIDGE_ROOT", str(root))
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(root / "home"))
    for name, port in zip(("GATEWAY", "GATEWAY_ADMIN", "MLFLOW", "PREFECT", "WEBHOOK"), free_ports(5), strict=True):
        monkeypatch.setenv(f"WEIGHBRIDGE_{name}_PORT", str(port))
    return root


@pytest.mark.timeout(60)
@pytest.mark.parametrize("row", TYPED, ids=lambda row: f"{row['mistake']}: {row['command']}")
def test_a_mistake_that_is_typed(
    row: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in row.get("environment", {}).items():
        monkeypatch.setenv(name, value.replace("HERE", str(root)))
    if edit := row.get("edit"):
        name, old, new = edit
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))
    for name, text in row.get("write", {}).items():
        (root / name).write_text(text)
    before = files(root)
    command = row["command"].replace("MODEL", str(root / "model")).replace("HERE", str(root))
    # `lines` shows mistakes in a table; its document has their names.
    command += " --json" if command.startswith("lines check") else ""
    out, stream, printed = sys.stdout, documents.stream, documents.printed
    documents.printed = 0
    with pytest.raises(SystemExit) as ended:
        run(shlex.split(command))
    sys.stdout, documents.stream, documents.printed = out, stream, printed
    said = capfd.readouterr()
    assert ended.value.code == row["status"], said
    assert "Traceback" not in said.err
    assert named(said) == row["error"], said
    if row["left"] == "nothing":
        assert files(root) == before


@pytest.mark.parametrize("row", NAMED, ids=lambda row: row["test"])
def test_a_mistake_that_another_test_makes(row: dict[str, Any]) -> None:
    path, function = row["test"].split("::")
    assert f"\ndef {function}(" in (CHECKOUT / path).read_text()


def test_every_row_has_the_status_of_its_error() -> None:
    assert len(ROWS) >= 40
    assert [row for row in ROWS if ("command" in row) == ("test" in row)] == []
    assert [row for row in ROWS if row["error"] and STATUS[row["error"]] != row["status"]] == []
    assert [row for row in ROWS if not row["error"] and row["status"] not in (0, 129, 130, 137)] == []


def named(said: CaptureResult[str]) -> str:
    """The name of the error that a command told, if it told one."""
    if said.out.startswith("{"):
        return "; ".join(problem["error"] for problem in json.loads(said.out)["problems"])
    found = re.search(r"^([A-Z]\w+): .*\n(?:.*\n)*?Next: ", said.err, re.MULTILINE)
    return found[1] if found else ""


def files(root: Path) -> dict[str, bytes]:
    """What there is of the installation but for logs."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "logs" not in path.parts
    }
