"""Assertions on the run of the model: its latency and finish reason."""

from __future__ import annotations

from tasks.evaluate.suites.assertions.answer import Answer
from tasks.evaluate.suites.assertions.base import AssertionKind, AssertionSpec

MS = 1000.0


def _latency(spec: AssertionSpec, answer: Answer) -> bool:
    return answer.latency_seconds * MS <= (spec.threshold or 0)


def _threshold_problem(spec: AssertionSpec) -> str:
    return "" if spec.threshold and spec.threshold > 0 else "needs a threshold in milliseconds"


def _finish_reason(spec: AssertionSpec, answer: Answer) -> bool:
    return answer.finish_reason.lower() == spec.value.lower()


def _reason_problem(spec: AssertionSpec) -> str:
    reasons = ("stop", "length", "tool_calls", "content_filter")
    is_known = isinstance(spec.value, str) and spec.value.lower() in reasons
    return "" if is_known else f"needs one of {', '.join(reasons)} as value"


KINDS = {
    "latency": AssertionKind(_latency, _threshold_problem),
    "finish-reason": AssertionKind(_finish_reason, _reason_problem),
}
