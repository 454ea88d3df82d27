"""One reader for what others write: no module parses YAML or JSON of a user or a publisher by itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOOR = "weighbridge/documents.py"
YAML = {"yaml.load", "yaml.safe_load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.safe_load_all"}
JSON = {"json.load", "json.loads"}
OWN = {
    "tasks/evaluate/verdict/sequential/pairs.py": "scores of millions of rows, each of which is checked behind it",
    "tasks/fit/model/from_transformers.py": "a cache of our own, and a child's results",
}
"""Modules that parse JSON which is not a publisher's or a user's file, or check it otherwise, and why."""


def calls(path: Path) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("room", ["cli", "flows", "stack", "tasks", "registry", "weighbridge"])
def test_yaml_is_read_through_one_door(room: str) -> None:
    names = {path.relative_to(ROOT).as_posix(): calls(path) & YAML for path in sorted((ROOT / room).rglob("*.py"))}
    assert {name for name, found in names.items() if found} <= {DOOR}


@pytest.mark.parametrize("room", ["cli", "flows", "tasks/source", "tasks/fit", "tasks/quantize", "tasks/evaluate"])
def test_json_of_publishers_and_users_is_read_through_one_door(room: str) -> None:
    names = {path.relative_to(ROOT).as_posix(): calls(path) & JSON for path in sorted((ROOT / room).rglob("*.py"))}
    assert {name for name, found in names.items() if found} <= set(OWN)
