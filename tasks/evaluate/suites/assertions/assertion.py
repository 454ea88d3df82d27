"""One assertion, a set of assertions, and the grade that they give an answer."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.evaluate.suites.assertions.answer import Answer
from tasks.evaluate.suites.assertions.base import AssertionSpec, is_share
from tasks.evaluate.suites.assertions.registry import assertion_kinds
from tasks.evaluate.suites.assertions.unsupported import alternative
from weighbridge.errors import SuiteInvalid
from weighbridge.suggestions import did_you_mean

SET = "assert-set"
MS = 1000.0


class AssertionRefused(SuiteInvalid):
    """An assertion that is not supported, or whose spec has a problem."""


class Grade(BaseModel):
    """The grade of an answer by a list of assertions."""

    model_config = ConfigDict(frozen=True)

    share: float
    """Weighted share of the assertions that hold, 0 to 1: promptfoo's score."""
    passed: bool
    """Whether every assertion of weight above 0 holds or, with a threshold, the share reaches it."""
    failures: tuple[str, ...] = ()
    """Assertions that do not hold, also if the answer passed by a threshold."""


class Assertion(AssertionSpec):
    """One assertion, or a set of assertions."""

    assertions: tuple[Assertion, ...] = Field((), alias="assert")
    """assert-set: its members."""

    @model_validator(mode="after")
    def _is_supported(self) -> Assertion:
        kinds = assertion_kinds()
        if self.type == SET:
            problem = _set_problem(self)
        elif self.kind not in kinds:
            supported = [*kinds, SET]
            what = f"The assertion {self.type!r} is not supported{did_you_mean(self.kind, supported) or '.'}"
            raise AssertionRefused(what, alternative(self.kind, supported))
        else:
            problem = _fields_problem(self) or kinds[self.kind].problem(self)
        if problem:
            raise AssertionRefused(f"The assertion {self.type!r} {problem}.", "Correct this line of the suite.")
        return self

    def failure(self, answer: Answer | str, latency_ms: float = 0.0) -> str:
        """Describe the assertion if an answer does not satisfy it; empty if it does.

        Args:
            answer: the model's answer; a text stands for an answer with nothing else.
            latency_ms: latency of a text.
        """
        whole = Answer(text=answer, latency_seconds=latency_ms / MS) if isinstance(answer, str) else answer
        return "" if self._grade(whole).passed else self._description

    def _grade(self, answer: Answer) -> Grade:
        if self.type == SET:
            return grade(self.assertions, answer, self.threshold)
        holds = assertion_kinds()[self.kind].holds(self, answer) != self.type.startswith("not-")
        return Grade(share=float(holds), passed=holds, failures=() if holds else (self._description,))

    @property
    def _description(self) -> str:
        if self.type == SET:
            return f"{SET} of {', '.join(member.type for member in self.assertions)}"
        value = self.value if self.threshold is None or self.value is not None else self.threshold
        return f"{self.type} {json.dumps(value, ensure_ascii=False)}" if value is not None else self.type

    @property
    def leaves(self) -> tuple[Assertion, ...]:
        """The assertion itself, or the leaves of a set's members."""
        return tuple(leaf for member in self.assertions for leaf in member.leaves) if self.type == SET else (self,)


def grade(assertions: tuple[Assertion, ...], answer: Answer, threshold: float | None = None) -> Grade:
    """Grade an answer as promptfoo does.

    Args:
        assertions: at least one.
        answer: the model's answer.
        threshold: the share from which an answer passes; without it every assertion must hold.

    Source: promptfoo's AssertionsResult. The score is the weighted mean of the assertions' scores; a set counts with
    its own score, and a threshold overrides single failures. Unlike there, a single assertion scores 0 or 1 even if
    its measure is graded.
    """
    grades = [(assertion.weight, assertion._grade(answer)) for assertion in assertions]
    total = sum(weight for weight, _ in grades)
    share = sum(weight * part.share for weight, part in grades) / total if total else 1.0
    failures = tuple(failure for weight, part in grades if weight for failure in part.failures)
    all_hold = all(part.passed for weight, part in grades if weight)
    return Grade(share=share, passed=all_hold if threshold is None else share >= threshold, failures=failures)


def _set_problem(assertion: Assertion) -> str:
    if assertion.value is not None or not assertion.assertions:
        return "needs a list of assertions under `assert`"
    return "" if is_share(assertion.threshold) else "needs a threshold between 0 and 1"


def _fields_problem(assertion: Assertion) -> str:
    kinds = assertion_kinds()
    if assertion.assertions:
        return f"has assertions of its own, which only `{SET}` may have"
    if assertion.provider and not kinds[assertion.kind].takes_provider:
        allowed = " and ".join(f"`{name}`" for name, kind in kinds.items() if kind.takes_provider)
        return f"has a provider, which only {allowed} may have"
    return ""
