"""Writer of a suite's file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tasks.evaluate.suites.promptfoo.items import Imported
from tasks.evaluate.suites.suite import Question, questions_of
from weighbridge.errors import ImportIncomplete, SuiteExists


def as_lines(questions: tuple[Question, ...]) -> str:
    """Return the JSONL of a regression suite: without defaults, but with every max_tokens that was set."""
    return "".join(json.dumps(_row(question), ensure_ascii=False) + "\n" for question in questions)


def _row(question: Question) -> dict[str, Any]:
    row = question.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if "max_tokens" in question.model_fields_set:
        row["max_tokens"] = question.max_tokens
    return {key: row[key] for key in ("id", "messages", "assert") if key in row} | row


def write_suite(imported: Imported, path: Path, *, force: bool = False) -> bool:
    """Write a suite's file atomically.

    Args:
        imported: the items to write; at least one.
        path: the suite's file.
        force: whether an existing file may be replaced.

    Returns:
        True if the file changed; an equal file is not rewritten.

    Raises:
        SuiteExists: there is another suite of that name.
        ImportIncomplete: there are no items.
    """
    if not imported.questions:
        raise ImportIncomplete(
            "Nothing of the configuration can be imported.", "Read the list above, and change what it names."
        )
    text = as_lines(imported.questions)
    if path.is_file() and path.read_text() == text:
        return False
    if path.exists() and not force:
        raise SuiteExists(
            f"{path.name} exists already, with another suite.",
            "Choose another --name, or replace it with --force: then its items must be scored again.",
            where=str(path),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text)
        questions_of(partial)  # a file that cannot be read back does not get the suite's name
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return True
