"""Types and helpers shared by all assertion kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.evaluate.suites.assertions.answer import Answer
from weighbridge import documents
from weighbridge.errors import DocumentInvalid


class AssertionSpec(BaseModel):
    """One assertion as it stands in a suite's file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: str
    """Name of a kind, `not-` and such a name, or `assert-set`."""
    value: Any = None
    threshold: float | None = None
    """latency: milliseconds; levenshtein: edits; bleu, similar, tool-call-f1, assert-set: a share, 0 to 1."""
    weight: float = Field(1.0, ge=0)
    """Weight in a graded score; an assertion of weight 0 never fails, as in promptfoo."""
    provider: str | None = None
    """similar: the measure."""

    @property
    def kind(self) -> str:
        """The type without `not-`."""
        return self.type.removeprefix("not-")


@dataclass(frozen=True)
class AssertionKind:
    """One kind of assertion: how it decides, and which specs it accepts."""

    holds: Callable[[AssertionSpec, Answer], bool]
    """Decides whether an answer satisfies a spec."""
    problem: Callable[[AssertionSpec], str]
    """Says what is wrong with a spec, or nothing; the text completes "The assertion … "."""
    text_only: bool = False
    """Whether it looks only at the answer's text, so that the lint can try it on sample texts."""
    needs_tools: bool = False
    """Whether it compares with the tools that the item offers."""
    takes_provider: bool = False
    """Whether its specs may name a provider."""


ANSWER_BYTES = 64 * 2**20
"""Of a text that is parsed; answers of models are kilobytes, files of an import megabytes."""


class NotJson(ValueError):
    """A text that is not a JSON document."""


def parse_json(text: str) -> Any:
    """Parse JSON as the standard and JavaScript define it, without Python's NaN and Infinity.

    Raises:
        NotJson: the text is not JSON.
    """
    try:
        return documents.parse_json(text, "", ANSWER_BYTES, constants=False)
    except DocumentInvalid as error:
        raise NotJson(error.what.removeprefix("The file is not JSON: ").removesuffix(".")) from None


def json_equal(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal; unlike in Python, 1 does not equal true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(json_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(json_equal(*pair) for pair in zip(left, right))
    return bool(left == right)


def as_text(value: Any) -> str:
    """Write a scalar as JavaScript does: true, 4, 4.5."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def is_scalar(value: Any) -> bool:
    """Whether a value is a non-empty text or a number."""
    return (isinstance(value, str) and value != "") or (isinstance(value, (int, float)) and not isinstance(value, bool))


def no_problem(_: AssertionSpec) -> str:
    """Accept every spec; for kinds without a value."""
    return ""


def is_share(threshold: float | None) -> bool:
    """Whether a threshold is absent or between 0 and 1."""
    return threshold is None or 0 <= threshold <= 1
