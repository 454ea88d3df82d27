"""Assertions on the words of an answer."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from typing import Any

from tasks.evaluate.suites.assertions.answer import Answer
from tasks.evaluate.suites.assertions.base import Kind, NotJson, Wanted, as_text, is_scalar, parse_json, same

LEVENSHTEIN_DEFAULT = 5
"""promptfoo's default threshold."""


def listed(value: Any) -> list[str]:
    """A list of texts, or promptfoo's comma-separated text, in which a quoted part may hold commas."""
    if isinstance(value, list):
        return [as_text(part) for part in value]
    row = next(csv.reader([value], skipinitialspace=True), [])
    return [part.strip() for part in row if part.strip()]


def _equals(wanted: Wanted, answer: Answer) -> bool:
    if not isinstance(wanted.value, (dict, list)):
        return answer.shown == as_text(wanted.value)
    try:
        return same(parse_json(answer.shown), wanted.value)
    except NotJson:
        return False


def _contains(wanted: Wanted, answer: Answer) -> bool:
    return as_text(wanted.value) in answer.shown


def _icontains(wanted: Wanted, answer: Answer) -> bool:
    return as_text(wanted.value).lower() in answer.shown.lower()


def _many(every: bool, any_case: bool) -> Callable[[Wanted, Answer], bool]:
    def holds(wanted: Wanted, answer: Answer) -> bool:
        shown = answer.shown.lower() if any_case else answer.shown
        found = ((text.lower() if any_case else text) in shown for text in listed(wanted.value))
        return all(found) if every else any(found)

    return holds


def _word_count(wanted: Wanted, answer: Answer) -> bool:
    count = len(answer.shown.split())
    if isinstance(wanted.value, dict):
        return bool(wanted.value.get("min", 0) <= count <= wanted.value.get("max", float("inf")))
    return count == int(wanted.value)


def edits(one: str, other: str) -> int:
    """Levenshtein distance: fewest insertions, deletions and replacements between two texts."""
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, start=1):
        left, row[0] = row[0], index
        for place, target in enumerate(other, start=1):
            left, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, left + (letter != target))
    return row[-1]


def _levenshtein(wanted: Wanted, answer: Answer) -> bool:
    return edits(answer.shown, wanted.value) <= (LEVENSHTEIN_DEFAULT if wanted.threshold is None else wanted.threshold)


def _lacks_value(wanted: Wanted) -> str:
    return "needs a value" if wanted.value is None else ""


def _lacks_scalar(wanted: Wanted) -> str:
    return "" if is_scalar(wanted.value) else "needs a text (or a number) as value, and not an empty one"


def _lacks_text(wanted: Wanted) -> str:
    return "" if isinstance(wanted.value, str) and wanted.value else "needs a text as value, and not an empty one"


def _lacks_list(wanted: Wanted) -> str:
    value = wanted.value
    if isinstance(value, list) and value and all(is_scalar(part) for part in value):
        return ""
    if isinstance(value, str) and listed(value):
        return ""
    return "needs a list of texts as value, none of them empty"


def _lacks_pattern(wanted: Wanted) -> str:
    if problem := _lacks_text(wanted):
        return problem
    try:
        re.compile(wanted.value)
    except (re.error, OverflowError, RecursionError) as error:
        return f"has a regular expression that does not compile in Python: {error}"
    return ""


def _lacks_count(wanted: Wanted) -> str:
    value = wanted.value
    if isinstance(value, dict):
        numbers = all(type(number) is int and number >= 0 for number in value.values())
        if value and set(value) <= {"min", "max"} and numbers and value.get("min", 0) <= value.get("max", float("inf")):
            return ""
    elif (type(value) is int and value >= 0) or (isinstance(value, str) and value.isascii() and value.isdigit()):
        return ""
    return 'needs a number of words, or {"min": …, "max": …} with the smaller one first'


def _lacks_reference(wanted: Wanted) -> str:
    if not isinstance(wanted.value, str):
        return "needs a text as value"
    return "" if wanted.threshold is None or wanted.threshold >= 0 else "needs a threshold of no less than 0 edits"


KINDS = {
    "equals": Kind(_equals, _lacks_value),
    "contains": Kind(_contains, _lacks_scalar),
    "icontains": Kind(_icontains, _lacks_scalar),
    "contains-all": Kind(_many(every=True, any_case=False), _lacks_list),
    "contains-any": Kind(_many(every=False, any_case=False), _lacks_list),
    "icontains-all": Kind(_many(every=True, any_case=True), _lacks_list),
    "icontains-any": Kind(_many(every=False, any_case=True), _lacks_list),
    "starts-with": Kind(lambda wanted, answer: answer.shown.startswith(wanted.value), _lacks_text),
    "regex": Kind(lambda wanted, answer: re.search(wanted.value, answer.shown) is not None, _lacks_pattern),
    "levenshtein": Kind(_levenshtein, _lacks_reference),
    "word-count": Kind(_word_count, _lacks_count),
}
