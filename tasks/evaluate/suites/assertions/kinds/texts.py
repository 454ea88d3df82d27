"""Assertions on the text of an answer."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from typing import Any

from tasks.evaluate.suites.assertions.answer import Answer
from tasks.evaluate.suites.assertions.base import (
    AssertionKind,
    AssertionSpec,
    NotJson,
    as_text,
    is_scalar,
    json_equal,
    parse_json,
)

LEVENSHTEIN_DEFAULT = 5
"""promptfoo's default threshold."""


def as_list(value: Any) -> list[str]:
    """Read a list of texts, or promptfoo's comma-separated text, in which quoted parts may contain commas."""
    if isinstance(value, list):
        return [as_text(part) for part in value]
    row = next(csv.reader([value], skipinitialspace=True), [])
    return [part.strip() for part in row if part.strip()]


def _equals(spec: AssertionSpec, answer: Answer) -> bool:
    if not isinstance(spec.value, (dict, list)):
        return answer.shown == as_text(spec.value)
    try:
        return json_equal(parse_json(answer.shown), spec.value)
    except NotJson:
        return False


def _contains(spec: AssertionSpec, answer: Answer) -> bool:
    return as_text(spec.value) in answer.shown


def _icontains(spec: AssertionSpec, answer: Answer) -> bool:
    return as_text(spec.value).lower() in answer.shown.lower()


def _contains_texts(every: bool, ignore_case: bool) -> Callable[[AssertionSpec, Answer], bool]:
    def holds(spec: AssertionSpec, answer: Answer) -> bool:
        shown = answer.shown.lower() if ignore_case else answer.shown
        found = ((text.lower() if ignore_case else text) in shown for text in as_list(spec.value))
        return all(found) if every else any(found)

    return holds


def _word_count(spec: AssertionSpec, answer: Answer) -> bool:
    count = len(answer.shown.split())
    if isinstance(spec.value, dict):
        return bool(spec.value.get("min", 0) <= count <= spec.value.get("max", float("inf")))
    return count == int(spec.value)


def levenshtein_distance(source: str, target: str) -> int:
    """Return the smallest number of insertions, deletions and replacements that turn one text into another."""
    # One row of the dynamic programming table: costs of turning the source so far into each beginning of the target.
    costs = list(range(len(target) + 1))
    for row, letter in enumerate(source, start=1):
        diagonal, costs[0] = costs[0], row
        for column, target_letter in enumerate(target, start=1):
            replaced = diagonal + (letter != target_letter)
            diagonal, costs[column] = costs[column], min(costs[column] + 1, costs[column - 1] + 1, replaced)
    return costs[-1]


def _levenshtein(spec: AssertionSpec, answer: Answer) -> bool:
    return levenshtein_distance(answer.shown, spec.value) <= (
        LEVENSHTEIN_DEFAULT if spec.threshold is None else spec.threshold
    )


def _value_problem(spec: AssertionSpec) -> str:
    return "needs a value" if spec.value is None else ""


def _scalar_problem(spec: AssertionSpec) -> str:
    return "" if is_scalar(spec.value) else "needs a text (or a number) as value, and not an empty one"


def _text_problem(spec: AssertionSpec) -> str:
    return "" if isinstance(spec.value, str) and spec.value else "needs a text as value, and not an empty one"


def _list_problem(spec: AssertionSpec) -> str:
    value = spec.value
    if isinstance(value, list) and value and all(is_scalar(part) for part in value):
        return ""
    if isinstance(value, str) and as_list(value):
        return ""
    return "needs a list of texts as value, none of them empty"


def _pattern_problem(spec: AssertionSpec) -> str:
    if problem := _text_problem(spec):
        return problem
    try:
        re.compile(spec.value)
    except (re.error, OverflowError, RecursionError) as error:
        return f"has a regular expression that does not compile in Python: {error}"
    return ""


def _count_problem(spec: AssertionSpec) -> str:
    value = spec.value
    if isinstance(value, dict):
        numbers = all(type(number) is int and number >= 0 for number in value.values())
        if value and set(value) <= {"min", "max"} and numbers and value.get("min", 0) <= value.get("max", float("inf")):
            return ""
    elif (type(value) is int and value >= 0) or (isinstance(value, str) and value.isascii() and value.isdigit()):
        return ""
    return 'needs a number of words, or {"min": …, "max": …} with the smaller one first'


def _levenshtein_problem(spec: AssertionSpec) -> str:
    if not isinstance(spec.value, str):
        return "needs a text as value"
    return "" if spec.threshold is None or spec.threshold >= 0 else "needs a threshold of no less than 0 edits"


def _starts_with(spec: AssertionSpec, answer: Answer) -> bool:
    return answer.shown.startswith(spec.value)


def _regex(spec: AssertionSpec, answer: Answer) -> bool:
    return re.search(spec.value, answer.shown) is not None


KINDS = {
    "equals": AssertionKind(_equals, _value_problem, text_only=True),
    "contains": AssertionKind(_contains, _scalar_problem, text_only=True),
    "icontains": AssertionKind(_icontains, _scalar_problem, text_only=True),
    "contains-all": AssertionKind(_contains_texts(every=True, ignore_case=False), _list_problem, text_only=True),
    "contains-any": AssertionKind(_contains_texts(every=False, ignore_case=False), _list_problem, text_only=True),
    "icontains-all": AssertionKind(_contains_texts(every=True, ignore_case=True), _list_problem, text_only=True),
    "icontains-any": AssertionKind(_contains_texts(every=False, ignore_case=True), _list_problem, text_only=True),
    "starts-with": AssertionKind(_starts_with, _text_problem, text_only=True),
    "regex": AssertionKind(_regex, _pattern_problem, text_only=True),
    "levenshtein": AssertionKind(_levenshtein, _levenshtein_problem, text_only=True),
    "word-count": AssertionKind(_word_count, _count_problem, text_only=True),
}
