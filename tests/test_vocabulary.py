"""The vocabulary of the code: names that were replaced by the field's words stay out of it.

The check reads the syntax trees of the source and imports nothing of it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cli", "stack", "flows", "tasks", "registry", "weighbridge", "examples")

RETIRED = {
    "look": "drift_check, interim_result or list_sources",
    "Look": "InterimResult",
    "looks": "interim_results",
    "Looks": "ErrorBudget",
    "ask": "score_prompts, or request for a request to an engine",
    "Hold": "CanaryStep",
    "hold": "verify_approval",
    "Held": "QueuedRequests",
    "climb": "quantize_until_close",
    "Climb": "RolloutRun",
    "Rung": "Attempt",
    "rungs": "attempts",
    "Trial": "ServingScorer",
    "again": "production_rescored, or the noun that it stands for",
    "alone": "unpaired_suites",
    "seen": "drift, or the noun that it stands for",
    "Journal": "Outbox or PartialScores",
    "journal": "outbox or partial_scores",
    "catch_up": "reconcile",
    "catching_up": "reconcile",
    "denied": "auth_errors or denial",
    "reality": "measured_memory",
    "room": "free_memory",
    "back": "rollback",
    "facts": "model_files",
    "sides": "compare_inputs, or the two things that are compared",
    "patience": "retries or retry_seconds",
    "pieces": "parts",
    "extras": "extra_weights",
    "needs": "resources",
    "Needs": "Resources",
    "switch_back": "restart_previous, or what is switched",
    "one": "the element: artifact, row, engine, entry",
    "told": "what was reported: messages, states",
    "tell": "report or log",
    "there": "what was found there",
    "wanted": "expected or requested",
    "made": "what was made: artifact, version",
    "ours": "candidate",
    "theirs": "production",
    "somebody": "user, account or person",
    "nobody": "the absent user, account or person",
}
"""Retired name -> the name to write instead. Leading and trailing underscores do not count."""

FACTS_FIELD = "`facts` is a field of every artifact's manifest.json, a file on disk that keeps its format"
EXCEPTIONS = {
    ("registry/store/artifact.py", "facts"): FACTS_FIELD,
    ("registry/store/local.py", "facts"): FACTS_FIELD,
    ("tasks/quantize/record.py", "facts"): FACTS_FIELD,
    ("tasks/source/download.py", "facts"): FACTS_FIELD,
}
"""(File, name) -> why the name stays."""


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield name and line of every function, class, argument, assigned variable and import alias."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name, node.lineno


def retired(source: str, file: str) -> list[str]:
    """List the retired names of a file, each with its place and the name to write instead."""
    found = [(Path(file).stem, 1), *names(ast.parse(source))]
    return [
        f"{file}:{line}: {name}: write {RETIRED[word]}"
        for name, line in found
        if (word := name.strip("_")) in RETIRED and (file, word) not in EXCEPTIONS
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_no_retired_name_is_in_the_code(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    found = [text for path in files for text in retired(path.read_text(), path.relative_to(ROOT).as_posix())]
    assert not found, "\n".join(["Retired names:", *found])


@pytest.mark.parametrize(
    "source",
    [
        "def look(): ...",
        "async def _ask(): ...",
        "class Hold: ...",
        "def score(again): ...",
        "for one in rows: ...",
        "[one for one in rows]",
        "self.told = 1",
        "if seen := read(): ...",
        "import journal.x as journal",
        "with lock() as there: ...",
    ],
)
def test_a_retired_name_of_each_kind_is_found(source: str) -> None:
    (message,) = retired(source, "tasks/sample.py")
    assert message.startswith("tasks/sample.py:1: ") and ": write " in message


def test_a_retired_module_is_found() -> None:
    assert retired("", "registry/journal.py") == ["registry/journal.py:1: journal: write outbox or partial_scores"]


def test_every_exception_is_still_needed() -> None:
    used = {
        (file, name.strip("_")) for file, _ in EXCEPTIONS for name, _ in names(ast.parse((ROOT / file).read_text()))
    }
    assert set(EXCEPTIONS) <= used
