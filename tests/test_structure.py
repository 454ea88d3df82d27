"""The structure of the code: layers that hold, no circles, and a check that notices when they don't."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import networkx
import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINTER = PROJECT["tool"]["importlinter"]
LINT = Path(sys.executable).with_name("lint-imports")

# One forbidden import of each kind: the file that gets it, and the module that it may not know.
VIOLATIONS = {
    "weighbridge/files.py": "registry.audit",
    "registry/audit/log.py": "tasks.source.hub",
    "tasks/source/admission.py": "flows.watch",
    "tasks/serve/approval.py": "stack.services",
    "flows/rollback.py": "cli.output",
    "stack/report.py": "flows.release",
    "cli/lines.py": "examples.load",
    "tasks/source/headers.py": "tasks.fit.report",
    "tasks/schemes/int8.py": "tasks.engines.vllm",
    "tasks/fit/report.py": "tasks.cost.prices",
    "tasks/quantize/run.py": "tasks.evaluate.compare",
    "tasks/evaluate/compare.py": "tasks.propose.report",
    "tasks/propose/report.py": "tasks.serve.approval",
    "weighbridge/errors.py": "weighbridge.settings",
    "tasks/quantize/card.py": "prefect",
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on a tree with the project's own configuration."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(
        [str(LINT), "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_every_package_that_is_shipped_is_in_a_layer() -> None:
    shipped = {name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    layers = LINTER["contracts"][0]["layers"]
    layered = {name for layer in layers for name in layer.split(" | ")}
    assert layered == shipped == set(LINTER["root_packages"]) == set(PROJECT["tool"]["mypy"]["packages"]) - {"tests"}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == shipped


@pytest.mark.timeout(300)
def test_a_planted_violation_of_each_kind_is_found(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in LINTER["root_packages"]:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, forbidden in VIOLATIONS.items():
        path = tmp_path / file
        path.write_text(f"{path.read_text()}\n\ndef _planted() -> None:\n    import {forbidden}\n")
    stray = tmp_path / "tasks" / "stray"
    stray.mkdir()
    (stray / "__init__.py").write_text("")
    linted = lint(tmp_path)
    assert linted.returncode == 1, linted.stdout + linted.stderr
    for file, forbidden in VIOLATIONS.items():
        importer = file.removesuffix(".py").replace("/", ".")
        assert f"{importer} -> {forbidden}" in linted.stdout, linted.stdout
    assert "tasks.stray" in linted.stdout


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for type checkers count too."""
    found = grimp.build_graph(*LINTER["root_packages"], cache_dir=None)
    graph = networkx.DiGraph(
        (module, imported) for module in found.modules for imported in found.find_modules_directly_imported_by(module)
    )
    assert [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_most_files_fit_in_one_sitting() -> None:
    """Three files in a hundred may have more than 300 lines."""
    lengths = {
        path.relative_to(ROOT): path.read_text().count("\n")
        for package in LINTER["root_packages"]
        for path in (ROOT / package).rglob("*.py")
    }
    long = {str(path): lines for path, lines in lengths.items() if lines > 300}
    assert len(long) <= 0.03 * len(lengths), long
