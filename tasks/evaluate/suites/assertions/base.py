"""What every family of assertions shares."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.evaluate.suites.assertions.answer import Answer


class Wanted(BaseModel):
    """What one assertion asks for, as the suite's file says it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: str
    """A name in CHECKS, `not-` and a name, or `assert-set`."""
    value: Any = None
    threshold: float | None = None
    """latency: milliseconds; levenshtein: edits; bleu, similar, tool-call-f1, assert-set: a share, 0 to 1."""
    weight: float = Field(1.0, ge=0)
    """How much it counts in a graded score; an assertion of weight 0 never fails, as in promptfoo."""
    provider: str | None = None
    """similar: the measure."""

    @property
    def kind(self) -> str:
        """The type without `not-`."""
        return self.type.removeprefix("not-")


@dataclass(frozen=True)
class Kind:
    """One kind of assertion."""

    holds: Callable[[Wanted, Answer], bool]
    lacks: Callable[[Wanted], str]
    """What an assertion of this kind lacks to be decided, or nothing; it completes "The assertion … "."""


class NotJson(ValueError):
    """A text that is not a JSON document."""


def parse_json(text: str) -> Any:
    """Read JSON as the standard and JavaScript have it: without Python's NaN and Infinity.

    Raises:
        NotJson: it is none.
    """

    def refuse(constant: str) -> Any:
        raise NotJson(constant)

    try:
        return json.loads(text, parse_constant=refuse)
    except (json.JSONDecodeError, RecursionError) as error:
        raise NotJson(str(error)) from None


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, without Python's 1 == True."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(left, right) for left, right in zip(one, other))
    return bool(one == other)


def as_text(value: Any) -> str:
    """A scalar as JavaScript writes it: true, 4, 4.5."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def is_scalar(value: Any) -> bool:
    """Whether a value is a text that is not empty, or a number."""
    return (isinstance(value, str) and value != "") or (isinstance(value, (int, float)) and not isinstance(value, bool))


def nothing_lacks(_: Wanted) -> str:
    """For kinds that need no value."""
    return ""


def is_share(threshold: float | None) -> bool:
    """Whether a threshold is left out or a share."""
    return threshold is None or 0 <= threshold <= 1
