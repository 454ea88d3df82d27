"""Assertions on an answer, named as in promptfoo, so that a suite can move between the two.

Supported are assertions that always decide the same way from the answer alone. Assertions that need code, a judge
model or an embedding model are refused with an alternative: a verdict must not depend on a second model. Regular
expressions are Python's. docs/how-to/add-a-suite.md lists where a decision differs from promptfoo's.

How to add an assertion: write one file in `kinds/`, with a dictionary KINDS from names to `AssertionKind`:

    from tasks.evaluate.suites.assertions.answer import Answer
    from tasks.evaluate.suites.assertions.base import AssertionKind, AssertionSpec


    def _holds(spec: AssertionSpec, answer: Answer) -> bool:
        return answer.shown.endswith(spec.value)


    def _problem(spec: AssertionSpec) -> str:
        return "" if isinstance(spec.value, str) and spec.value else "needs a text as value"


    KINDS = {"ends-with": AssertionKind(_holds, _problem, text_only=True)}

The file is found by its place, and `not-ends-with`, weights, thresholds and the suite lint follow from it. If an
existing assertion decides differently than before, raise VERSION. An assertion outside this tree is an entry point
whose name is the assertion's and whose object is the `AssertionKind`; the version of its distribution becomes part of
every score's key:

    [project.entry-points."weighbridge.assertions"]
    ends-with = "my_package:ENDS_WITH"
"""

from tasks.evaluate.suites.assertions.answer import Answer, ToolCall
from tasks.evaluate.suites.assertions.assertion import Assertion, AssertionRefused, Grade, grade
from tasks.evaluate.suites.assertions.base import AssertionKind, AssertionSpec
from tasks.evaluate.suites.assertions.registry import VERSION, assertion_kinds, assertions_version

__all__ = [
    "VERSION",
    "Answer",
    "Assertion",
    "AssertionKind",
    "AssertionRefused",
    "AssertionSpec",
    "Grade",
    "ToolCall",
    "assertion_kinds",
    "assertions_version",
    "grade",
]
