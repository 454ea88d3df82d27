"""Assertions on an answer, named as promptfoo names them, so that a suite can move between the two.

Supported are those that decide the same way every time from the answer alone. What needs code, a judge
model or an embedding model is refused by name: a verdict must not hang on a second model's mood.
Regular expressions are Python's. docs/how-to/add-a-suite.md lists the differences from promptfoo.

One file a family: `texts`, `documents` (JSON), `overlap` (graded likeness), `refusal`, `calls` (tools) and
`run` (latency, finish reason). A new kind is one entry in its family's KINDS.
"""

from tasks.evaluate.suites.assertions.answer import Answer, ToolCall
from tasks.evaluate.suites.assertions.assertion import CHECKS, Assertion, AssertionRefused, Grade, grade

VERSION = 2
"""Part of every score's key: raise it when an assertion decides differently than before.

2: NaN and Infinity are no longer JSON; `equals` takes a number for its text and tells 1 from true.
"""

__all__ = ["CHECKS", "VERSION", "Answer", "Assertion", "AssertionRefused", "Grade", "ToolCall", "grade"]
