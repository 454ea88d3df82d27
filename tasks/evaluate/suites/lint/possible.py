"""Items that cannot fail, and items that cannot pass.

Neither can be decided for every assertion: a regular expression may be anything. What is told here is sure for
contradictions; `cannot-fail` is what held for answers as different as PROBES.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tasks.evaluate.suites.assertions import CHECKS, Answer, Assertion
from tasks.evaluate.suites.assertions.assertion import SET
from tasks.evaluate.suites.assertions.base import as_text
from tasks.evaluate.suites.assertions.texts import listed
from tasks.evaluate.suites.lint.finding import Finding
from tasks.evaluate.suites.suite import Question

PROBES = (
    *("", "x", "7", " \n", "No.", "Ωμέγα 漢字 ß", "{}", "[1]", "I'm sorry, but I can't help with that."),
    "Here is a list:\n\n1. one\n2. two\n\n" + "A long answer goes on and on, line after line.\n" * 40,
)
LONGEST_TOLD = 60
"""Characters of a value that a message shows."""
OF_THE_TEXT = set(CHECKS) - {"latency", "finish-reason", "tool-call-f1", "is-valid-openai-tools-call"}
OF_THE_TEXT -= {"is-valid-function-call", "is-valid-openai-function-call", "is-refusal"}
"""Kinds that look at nothing but the text."""


def wrong_with(question: Question, where: str) -> list[Finding]:
    """What makes a question useless."""
    found = []
    # One contradiction is often found in more than one way: the first is enough to mend it.
    if reason := next(_contradictions(question), ""):
        what = f"no answer can pass: {reason}"
        found.append(Finding(level="error", code="cannot-pass", where=where, what=what))
    counting = [one for one in question.assertions if one.weight > 0]
    if question.threshold == 0:
        found.append(_cannot_fail(where, "its threshold is 0"))
    elif not counting:
        found.append(_cannot_fail(where, "its assertions weigh nothing"))
    elif all(_always_holds(one) for one in counting):
        told = ", ".join(_told(leaf) for one in counting for leaf in one.leaves)
        found.append(_cannot_fail(where, f"{told} held for everything that was tried, an empty answer too"))
    elif idle := [one for one in counting if _always_holds(one)]:
        what = f"{_told(idle[0])} never fails: it only makes the item look stricter than it is"
        found.append(Finding(level="warning", code="idle-assertion", where=where, what=what))
    return found


def _cannot_fail(where: str, why: str) -> Finding:
    return Finding(level="warning", code="cannot-fail", where=where, what=f"whatever a model says passes: {why}")


def _always_holds(assertion: Assertion) -> bool:
    if assertion.type == SET:
        held = [one.weight for one in assertion.assertions if _always_holds(one)]
        total = sum(one.weight for one in assertion.assertions)
        needed = 1.0 if assertion.threshold is None else assertion.threshold
        return not total or sum(held) / total >= needed
    if assertion.type not in OF_THE_TEXT:
        return False  # `not-…` holds for most texts and fails for one: trying some tells nothing
    return not any(assertion.failure(Answer(text=probe)) for probe in PROBES)


def _never_holds(leaf: Assertion) -> bool:
    if leaf.type == leaf.kind or leaf.kind not in OF_THE_TEXT:
        return False
    return _always_holds(leaf.model_copy(update={"type": leaf.kind}))


def _contradictions(question: Question) -> Iterator[str]:
    """Why no answer can satisfy a question."""
    if question.threshold is not None:
        return  # not all assertions have to hold
    needed = [one for one in question.assertions if one.weight > 0]
    leaves = [leaf for one in needed if one.type != SET or one.threshold is None for leaf in one.leaves if leaf.weight]
    yield from (f"{_told(leaf)} forbids everything that was tried" for leaf in leaves if _never_holds(leaf))
    yield from _opposites(leaves)
    yield from _against_a_witness(leaves)
    yield from _wanted_and_forbidden(leaves)
    yield from _lengths(leaves, question.max_tokens)


def _opposites(leaves: list[Assertion]) -> Iterator[str]:
    keys = {(one.type, json.dumps(one.value), one.threshold) for one in leaves}
    for one in leaves:
        if one.type == one.kind and (f"not-{one.kind}", json.dumps(one.value), one.threshold) in keys:
            yield f"{_told(one)} and its opposite are both asked for"


def _against_a_witness(leaves: list[Assertion]) -> Iterator[str]:
    """Where an answer must equal one text, everything else must hold for that text."""
    for exact in (one for one in leaves if one.type == "equals"):
        structured = isinstance(exact.value, (dict, list))
        answer = Answer(text=json.dumps(exact.value) if structured else as_text(exact.value))
        # One object can be written in many ways: only what looks at it as JSON is sure.
        sure = {"equals", "is-json", "contains-json"} if structured else OF_THE_TEXT
        for other in leaves:
            if other is not exact and other.kind in sure and other.failure(answer):
                yield f"{_told(exact)} does not satisfy {_told(other)}"


def _wanted_and_forbidden(leaves: list[Assertion]) -> Iterator[str]:
    for wanted in leaves:
        if wanted.type not in ("contains", "icontains", "starts-with", "contains-all", "icontains-all"):
            continue
        for forbidden in leaves:
            if forbidden.type not in ("not-contains", "not-icontains", "not-contains-any", "not-icontains-any"):
                continue
            fold = forbidden.type.startswith("not-i")
            if wanted.type.startswith("i") and not fold:
                continue  # another spelling of it may be allowed
            for text in _texts(wanted):
                if any((no.lower() in text.lower()) if fold else (no in text) for no in _texts(forbidden)):
                    yield f"{_told(wanted)} is forbidden by {_told(forbidden)}"
    starts = sorted({one.value for one in leaves if one.type == "starts-with"}, key=len)
    if any(not longer.startswith(starts[0]) for longer in starts[1:]):
        yield f"it cannot start with all of {', '.join(map(repr, starts))}"


def _lengths(leaves: list[Assertion], max_tokens: int) -> Iterator[str]:
    ranges = [_range(one) for one in leaves if one.type == "word-count"]
    low, high = max([low for low, _ in ranges], default=0), min([high for _, high in ranges], default=float("inf"))
    if low > high:
        yield f"it must have at least {low} words and at most {high:.0f}"
    if low > max_tokens:
        yield f"it must have at least {low} words, and is cut after max_tokens: {max_tokens}"


def _range(leaf: Assertion) -> tuple[int, float]:
    if isinstance(leaf.value, dict):
        return leaf.value.get("min", 0), leaf.value.get("max", float("inf"))
    return int(leaf.value), int(leaf.value)


def _texts(leaf: Assertion) -> list[str]:
    return listed(leaf.value) if leaf.kind.endswith(("-all", "-any")) else [as_text(leaf.value)]


def _told(leaf: Assertion) -> str:
    if leaf.value is None:
        return f"`{leaf.type}`"
    value = json.dumps(leaf.value, ensure_ascii=False)
    return f"`{leaf.type}` {value if len(value) <= LONGEST_TOLD else value[:LONGEST_TOLD] + '…'}"
