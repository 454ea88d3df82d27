"""Readers of a suite's items that report every broken line, not only the first."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.evaluate.suites.assertions import Assertion
from tasks.evaluate.suites.assertions.base import as_text
from tasks.evaluate.suites.assertions.kinds.texts import as_list
from tasks.evaluate.suites.item_lines import FlawedLine, lines_of
from tasks.evaluate.suites.lint.feasibility import feasibility_findings
from tasks.evaluate.suites.lint.finding import Finding, Item
from tasks.evaluate.suites.suite import Question, data_file, definition_of, question_of
from weighbridge.errors import SuiteInvalid

LITERAL = ("equals", "contains", "icontains", "starts-with", "levenshtein")
LITERAL_LISTS = ("contains-any", "icontains-any", "contains-all", "icontains-all")

Read = tuple[list[Item], list[Finding]]


def read_regression(path: Path) -> Read:
    """Read the items of a JSONL file of prompts with assertions, and the findings on single items."""
    rows, findings = _rows(path)
    items = []
    for line, row in rows:
        try:
            question = question_of(row, path, line)
        except SuiteInvalid as error:
            code = "unknown-assertion" if "not supported" in error.what else "invalid-item"
            findings.append(Finding(level="error", code=code, where=_at(path, line), what=f"{error.what}"))
            continue
        items.append(_regression_item(question, _at(path, line)))
        findings += feasibility_findings(question, _at(path, line))
    return items, findings


def read_general(path: Path) -> Read:
    """Read the items of an lm-eval task with local data, and the findings on single items."""
    try:
        definition, data = definition_of(path), data_file(path)
    except SuiteInvalid as error:
        return [], [Finding(level="error", code="invalid-task", where=error.where, what=error.what)]
    rows, findings = _rows(data)
    items = []
    for line, row in rows:
        try:
            items.append(_general_item(definition, row, _at(data, line)))
        except (jinja2.TemplateError, ValueError, SyntaxError, LookupError, TypeError) as error:
            what = f"the task's templates do not fit this item: {error}"
            findings.append(Finding(level="error", code="invalid-item", where=_at(data, line), what=what))
    return items, findings


def _rows(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[Finding]]:
    """The number and object of every usable line, and an error for each other line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    findings: list[Finding] = []

    def add_error(number: int, code: str, what: str) -> None:
        findings.append(Finding(level="error", code=code, where=_at(path, number), what=what))

    for number, row in lines_of(path):
        if isinstance(row, FlawedLine):
            add_error(number, row.code, row.what)
        else:
            rows.append((number, row))
    if not rows and not findings:
        add_error(1, "empty", "it has no items")
    return rows, findings


def _at(path: Path, line: int) -> str:
    return f"{path.name}:{line}"


def _regression_item(question: Question, where: str) -> Item:
    *before, last = question.messages
    context = "\n".join(f"{message.role}: {message.content}" for message in before)
    tools = json.dumps(question.tools, sort_keys=True) if question.tools else ""
    leaves = [leaf for assertion in question.assertions for leaf in assertion.leaves]
    expected = next((text for leaf in leaves if (text := _literal(leaf))), "")
    return Item(
        id=question.id,
        where=where,
        context=f"{tools}{context}",
        text=last.content,
        expected=expected,
        must_pass=question.must_pass,
    )


def _literal(leaf: Assertion) -> str:
    """The text that an assertion looks for, if it looks for a text."""
    if leaf.type in LITERAL and not isinstance(leaf.value, (dict, list)):
        return as_text(leaf.value)
    return as_list(leaf.value)[0] if leaf.type in LITERAL_LISTS else ""


def _general_item(definition: dict[str, Any], row: dict[str, Any], where: str) -> Item:
    text = str(_render(definition.get("doc_to_text", ""), row))
    target: Any = _render(definition.get("doc_to_target", ""), row)
    if definition["output_type"] != "multiple_choice":
        return Item(id=row["id"], where=where, text=text, expected=str(target))
    choices = definition.get("doc_to_choice", [])
    options = _render(choices, row) if isinstance(choices, str) else choices
    options = ast.literal_eval(options) if isinstance(options, str) else options
    place = options.index(target) if target in options else int(target)
    texts = tuple(str(option) for option in options)
    return Item(
        id=row["id"],
        where=where,
        text="\n".join([text, *texts]),
        expected=texts[place],
        # The order of the options matters only to a model that sees them in that order.
        options=texts if _in_order(text, texts) else (),
        place=place,
    )


def _in_order(text: str, options: tuple[str, ...]) -> bool:
    places, start = [], 0
    for option in options:
        start = text.find(option, start)
        places.append(start)
        start += len(option)
    return bool(options) and all(place >= 0 for place in places) and places == sorted(places)


_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def _render(template: Any, row: dict[str, Any]) -> Any:
    """A field's value, or a template rendered with the item, as in lm-eval."""
    if not isinstance(template, str):
        return template
    return row[template] if template in row else _ENVIRONMENT.from_string(template).render(row)
