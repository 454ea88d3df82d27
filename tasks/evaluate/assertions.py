"""Assertions on an answer, named as promptfoo names them, so that a suite can move between the two.

Supported are those that decide the same way every time from the answer alone. What needs code, a judge
model or an embedding model is refused by name: a verdict must not hang on a second model's mood.
Regular expressions are Python's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema
from pydantic import BaseModel, ConfigDict, model_validator

from weighbridge.errors import SuiteInvalid

VERSION = 1
"""Part of every score's key: raise it when an assertion decides differently than before."""

LEVENSHTEIN_DEFAULT = 5
"""promptfoo's default threshold."""


class AssertionRefused(SuiteInvalid):
    """An assertion that is not supported, or lacks what its kind needs."""


class Assertion(BaseModel):
    """One thing that an answer must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    """A name in CHECKS, or `not-` and a name."""
    value: Any = None
    threshold: float | None = None
    """latency: milliseconds; levenshtein: edits."""

    @model_validator(mode="after")
    def _is_supported(self) -> Assertion:
        kind = self.type.removeprefix("not-")
        if kind not in CHECKS:
            raise AssertionRefused(f"The assertion {self.type!r} is not supported.", _instead(kind))
        problem = _problem(kind, self)
        if problem:
            raise AssertionRefused(f"The assertion {self.type!r} {problem}.", "Correct this line of the suite.")
        return self

    def failure(self, answer: str, latency_ms: float) -> str:
        """Why an answer does not satisfy it, or nothing.

        Args:
            answer: what the model said.
            latency_ms: how long the answer took.
        """
        negated = self.type.startswith("not-")
        holds = CHECKS[self.type.removeprefix("not-")](self, answer, latency_ms)
        if holds != negated:
            return ""
        wanted = self.value if self.threshold is None else self.threshold
        return f"{self.type} {json.dumps(wanted, ensure_ascii=False)}" if wanted is not None else self.type


def _texts(value: Any) -> list[str]:
    """A list, or promptfoo's comma-separated text."""
    return [str(part) for part in value] if isinstance(value, list) else [part.strip() for part in value.split(",")]


def _equals(assertion: Assertion, answer: str, _: float) -> bool:
    if isinstance(assertion.value, str):
        return answer == assertion.value
    parsed = _parsed(answer)
    return parsed is not _NOT_JSON and bool(parsed == assertion.value)


_NOT_JSON = object()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return _NOT_JSON


def _fits(document: Any, schema: Any) -> bool:
    return schema is None or jsonschema.Draft202012Validator(schema).is_valid(document)


def _is_json(assertion: Assertion, answer: str, _: float) -> bool:
    document = _parsed(answer)
    return document is not _NOT_JSON and _fits(document, assertion.value)


def _contains_json(assertion: Assertion, answer: str, _: float) -> bool:
    decoder = json.JSONDecoder()
    for start in (match.start() for match in re.finditer(r"[{\[]", answer)):
        try:
            document, _end = decoder.raw_decode(answer, start)
        except json.JSONDecodeError:
            continue
        if _fits(document, assertion.value):
            return True
    return False


def _word_count(assertion: Assertion, answer: str, _: float) -> bool:
    count, wanted = len(answer.split()), assertion.value
    if isinstance(wanted, dict):
        return wanted.get("min", 0) <= count <= wanted.get("max", float("inf"))
    return bool(count == wanted)


def _edits(one: str, other: str) -> int:
    """Levenshtein distance: fewest insertions, deletions and replacements between two texts."""
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, start=1):
        left, row[0] = row[0], index
        for place, target in enumerate(other, start=1):
            left, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, left + (letter != target))
    return row[-1]


CHECKS: dict[str, Callable[[Assertion, str, float], bool]] = {
    "equals": _equals,
    "contains": lambda a, answer, _: a.value in answer,
    "contains-all": lambda a, answer, _: all(text in answer for text in _texts(a.value)),
    "contains-any": lambda a, answer, _: any(text in answer for text in _texts(a.value)),
    "icontains": lambda a, answer, _: a.value.lower() in answer.lower(),
    "icontains-all": lambda a, answer, _: all(text.lower() in answer.lower() for text in _texts(a.value)),
    "icontains-any": lambda a, answer, _: any(text.lower() in answer.lower() for text in _texts(a.value)),
    "starts-with": lambda a, answer, _: answer.startswith(a.value),
    "regex": lambda a, answer, _: re.search(a.value, answer) is not None,
    "is-json": _is_json,
    "contains-json": _contains_json,
    "latency": lambda a, answer, latency_ms: latency_ms <= (a.threshold or 0),
    "levenshtein": lambda a, answer, _: (
        _edits(answer, a.value) <= (LEVENSHTEIN_DEFAULT if a.threshold is None else a.threshold)
    ),
    "word-count": _word_count,
}

TEXT = ("contains", "icontains", "starts-with", "regex", "levenshtein")
CODE = ("javascript", "python", "ruby", "webhook")
JUDGES = ("llm-rubric", "factuality", "model-graded-closedqa", "model-graded-factuality", "g-eval", "answer-relevance")


def _problem(kind: str, assertion: Assertion) -> str:
    """What an assertion of a supported kind lacks, or nothing."""
    value = assertion.value
    if kind == "equals" and value is None:
        return "needs a value"
    if kind in TEXT and not (isinstance(value, str) and value):
        return "needs a text as value"
    if kind.endswith(("-all", "-any")) and not (isinstance(value, (str, list)) and value):
        return "needs a list of texts as value"
    if kind == "latency" and not assertion.threshold:
        return "needs a threshold in milliseconds"
    if kind == "word-count" and not _counts(value):
        return 'needs a number of words, or {"min": …, "max": …}'
    if kind == "regex":
        try:
            re.compile(value)
        except re.error as error:
            return f"has a regular expression that does not compile: {error}"
    if kind in ("is-json", "contains-json") and value is not None:
        try:
            jsonschema.Draft202012Validator.check_schema(value)
        except jsonschema.SchemaError as error:
            return f"has a JSON schema that is not one: {error.message}"
    return ""


def _counts(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and set(value) <= {"min", "max"} and all(type(number) is int for number in value.values())
    return type(value) is int


def _instead(kind: str) -> str:
    """What to write in place of an assertion that is not supported."""
    if kind in CODE:
        return "It would run code from the suite: write a `regex`, or `is-json` with a JSON schema, instead."
    if kind in JUDGES or kind.startswith("context-"):
        return "It needs a second model as judge: write `icontains-any` or `regex` on what a right answer must say."
    if kind == "similar":
        return "It needs an embedding model: use `icontains-any`, or `levenshtein` for near-equal text."
    return f"Use one of {', '.join(CHECKS)}, each also with `not-` before it."
