"""One assertion, a set of them, and how they make a grade."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.evaluate.suites.assertions import calls, documents, overlap, refusal, run, texts
from tasks.evaluate.suites.assertions.answer import Answer
from tasks.evaluate.suites.assertions.base import Kind, Wanted, is_share
from tasks.evaluate.suites.assertions.refused import instead
from weighbridge.errors import SuiteInvalid

CHECKS: dict[str, Kind] = {
    **texts.KINDS,
    **documents.KINDS,
    **overlap.KINDS,
    **refusal.KINDS,
    **calls.KINDS,
    **run.KINDS,
}
"""Every supported kind by promptfoo's name; each may have `not-` before it."""

SET = "assert-set"


class AssertionRefused(SuiteInvalid):
    """An assertion that is not supported, or lacks what its kind needs."""


class Grade(BaseModel):
    """What an answer is worth by a list of assertions."""

    model_config = ConfigDict(frozen=True)

    share: float
    """Weighted share of the assertions that hold, 0 to 1: promptfoo's score."""
    passed: bool
    """Every assertion of weight above 0 holds or, where there is a threshold, the share reaches it."""
    failures: tuple[str, ...] = ()
    """What did not hold, also when the answer passed by a threshold."""


class Assertion(Wanted):
    """One thing that an answer must be, or a set of such things."""

    assertions: tuple[Assertion, ...] = Field((), alias="assert")
    """assert-set: its members."""

    @model_validator(mode="after")
    def _is_supported(self) -> Assertion:
        if self.type == SET:
            problem = _lacks_members(self)
        elif self.kind not in CHECKS:
            known = [*CHECKS, SET]
            raise AssertionRefused(f"The assertion {self.type!r} is not supported.", instead(self.kind, known))
        else:
            problem = _has_strange_fields(self) or CHECKS[self.kind].lacks(self)
        if problem:
            raise AssertionRefused(f"The assertion {self.type!r} {problem}.", "Correct this line of the suite.")
        return self

    def failure(self, answer: Answer | str, latency_ms: float = 0.0) -> str:
        """Why an answer does not satisfy it, or nothing.

        Args:
            answer: what the model gave back; a text stands for an answer of nothing else.
            latency_ms: how long a text took.
        """
        whole = Answer(text=answer, latency_seconds=latency_ms / run.MS) if isinstance(answer, str) else answer
        return "" if self._outcome(whole).passed else self._named

    def _outcome(self, answer: Answer) -> Grade:
        if self.type == SET:
            return grade(self.assertions, answer, self.threshold)
        holds = CHECKS[self.kind].holds(self, answer) != self.type.startswith("not-")
        return Grade(share=float(holds), passed=holds, failures=() if holds else (self._named,))

    @property
    def _named(self) -> str:
        if self.type == SET:
            return f"{SET} of {', '.join(one.type for one in self.assertions)}"
        wanted = self.value if self.threshold is None or self.value is not None else self.threshold
        return f"{self.type} {json.dumps(wanted, ensure_ascii=False)}" if wanted is not None else self.type

    @property
    def leaves(self) -> tuple[Assertion, ...]:
        """Itself, or the members of a set."""
        return tuple(leaf for one in self.assertions for leaf in one.leaves) if self.type == SET else (self,)


def grade(assertions: tuple[Assertion, ...], answer: Answer, threshold: float | None = None) -> Grade:
    """Grade an answer as promptfoo does.

    Args:
        assertions: at least one.
        answer: what the model gave back.
        threshold: the share from which an answer passes; without it every assertion must hold.

    Source: promptfoo's AssertionsResult: the score is the weighted mean of the assertions' scores, a set counts
    with its own, and a threshold overrides the single failures. Unlike there, one assertion is right or wrong
    (0 or 1) also where its measure is graded.
    """
    outcomes = [(one.weight, one._outcome(answer)) for one in assertions]
    total = sum(weight for weight, _ in outcomes)
    share = sum(weight * outcome.share for weight, outcome in outcomes) / total if total else 1.0
    failures = tuple(failure for weight, outcome in outcomes if weight for failure in outcome.failures)
    held = all(outcome.passed for weight, outcome in outcomes if weight)
    return Grade(share=share, passed=held if threshold is None else share >= threshold, failures=failures)


def _lacks_members(assertion: Assertion) -> str:
    if assertion.value is not None or not assertion.assertions:
        return "needs a list of assertions under `assert`"
    return "" if is_share(assertion.threshold) else "needs a threshold between 0 and 1"


def _has_strange_fields(assertion: Assertion) -> str:
    if assertion.assertions:
        return f"has assertions of its own, which only `{SET}` may have"
    return "has a provider, which only `similar` may have" if assertion.provider and assertion.kind != "similar" else ""
