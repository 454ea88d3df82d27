"""Commands that a person waits for import none of the libraries that take seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("prefect", "mlflow", "torch", "transformers", "lm_eval", "pandas", "scipy", "matplotlib")
PROGRAM = """
import sys
from cli.main import run
try:
    run(sys.argv[1:])
finally:
    print(sorted(set(%r) & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command",
    [
        "--version",
        "--help",
        "status",
        "status --json",
        "lines",
        "audit",
        "logs",
        "store ls",
        "key list",
        "keys list",
        "rollback --help",
        "promote --help",
        "release --help",
    ],
)
def test_a_command_that_answers_at_once_imports_no_heavy_library(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % (HEAVY,), *command.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["tasks.serve.rollout.rollback", "tasks.serve.approval", "registry.models.registry"])
def test_what_approve_and_rollback_do_first_imports_no_heavy_library(module: str) -> None:
    program = f"import sys, {module}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
