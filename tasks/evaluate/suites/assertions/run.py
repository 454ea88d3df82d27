"""Assertions on how an answer came about: how long it took and why it ended."""

from __future__ import annotations

from tasks.evaluate.suites.assertions.answer import Answer
from tasks.evaluate.suites.assertions.base import Kind, Wanted

MS = 1000.0


def _latency(wanted: Wanted, answer: Answer) -> bool:
    return answer.latency_seconds * MS <= (wanted.threshold or 0)


def _lacks_threshold(wanted: Wanted) -> str:
    return "" if wanted.threshold and wanted.threshold > 0 else "needs a threshold in milliseconds"


def _finish_reason(wanted: Wanted, answer: Answer) -> bool:
    return answer.finish_reason.lower() == wanted.value.lower()


def _lacks_reason(wanted: Wanted) -> str:
    reasons = ("stop", "length", "tool_calls", "content_filter")
    known = isinstance(wanted.value, str) and wanted.value.lower() in reasons
    return "" if known else f"needs one of {', '.join(reasons)} as value"


KINDS = {"latency": Kind(_latency, _lacks_threshold), "finish-reason": Kind(_finish_reason, _lacks_reason)}
