"""Lint rules: items that cannot fail, and items that cannot pass.

Neither is decidable for every assertion, such as a regular expression. Contradictions are certain; `cannot-fail` means
that an item passed every answer of PROBES.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tasks.evaluate.suites.assertions import Answer, Assertion, assertion_kinds
from tasks.evaluate.suites.assertions.assertion import SET
from tasks.evaluate.suites.assertions.base import as_text
from tasks.evaluate.suites.assertions.kinds.texts import as_list
from tasks.evaluate.suites.lint.finding import Finding
from tasks.evaluate.suites.suite import Question

PROBES = (
    *("", "x", "7", " \n", "No.", "Ωμέγα 漢字 ß", "{}", "[1]", "I'm sorry, but I can't help with that."),
    "Here is a list:\n\n1. one\n2. two\n\n" + "A long answer goes on and on, line after line.\n" * 40,
)
SHOWN_CHARACTERS = 60
"""Characters of a value that a message shows."""


def feasibility_findings(question: Question, where: str) -> list[Finding]:
    """Find reasons why a question can never fail or never pass."""
    found = []
    # One contradiction often shows in several ways: the first is enough.
    if reason := next(_contradictions(question), ""):
        what = f"no answer can pass: {reason}"
        found.append(Finding(level="error", code="cannot-pass", where=where, what=what))
    weighted = [assertion for assertion in question.assertions if assertion.weight > 0]
    if question.threshold == 0:
        found.append(_cannot_fail(where, "its threshold is 0"))
    elif not weighted:
        found.append(_cannot_fail(where, "its assertions have weight 0"))
    elif all(_always_holds(assertion) for assertion in weighted):
        shown = ", ".join(_shown(leaf) for assertion in weighted for leaf in assertion.leaves)
        found.append(_cannot_fail(where, f"{shown} held for every sample answer, even an empty one"))
    elif idle := [assertion for assertion in weighted if _always_holds(assertion)]:
        what = f"{_shown(idle[0])} never fails: it only makes the item look stricter than it is"
        found.append(Finding(level="warning", code="idle-assertion", where=where, what=what))
    return found


def _cannot_fail(where: str, why: str) -> Finding:
    return Finding(level="warning", code="cannot-fail", where=where, what=f"every answer passes: {why}")


def _always_holds(assertion: Assertion) -> bool:
    if assertion.type == SET:
        held = [member.weight for member in assertion.assertions if _always_holds(member)]
        total = sum(member.weight for member in assertion.assertions)
        needed = 1.0 if assertion.threshold is None else assertion.threshold
        return not total or sum(held) / total >= needed
    if not _is_text_only(assertion.type):
        return False  # `not-…` holds for most texts and fails for one: samples prove nothing
    return not any(assertion.failure(Answer(text=probe)) for probe in PROBES)


def _never_holds(leaf: Assertion) -> bool:
    if leaf.type == leaf.kind or not _is_text_only(leaf.kind):
        return False
    return _always_holds(leaf.model_copy(update={"type": leaf.kind}))


def _contradictions(question: Question) -> Iterator[str]:
    """Yield reasons why no answer can satisfy a question."""
    if question.threshold is not None:
        return  # not all assertions have to hold
    weighted = [assertion for assertion in question.assertions if assertion.weight > 0]
    required = [assertion for assertion in weighted if assertion.type != SET or assertion.threshold is None]
    leaves = [leaf for assertion in required for leaf in assertion.leaves if leaf.weight]
    yield from (f"{_shown(leaf)} forbids every sample answer" for leaf in leaves if _never_holds(leaf))
    yield from _opposites(leaves)
    yield from _conflicts_with_equals(leaves)
    yield from _required_and_forbidden(leaves)
    yield from _lengths(leaves, question.max_tokens)


def _opposites(leaves: list[Assertion]) -> Iterator[str]:
    keys = {(leaf.type, json.dumps(leaf.value), leaf.threshold) for leaf in leaves}
    for leaf in leaves:
        if leaf.type == leaf.kind and (f"not-{leaf.kind}", json.dumps(leaf.value), leaf.threshold) in keys:
            yield f"{_shown(leaf)} and its opposite are both required"


def _conflicts_with_equals(leaves: list[Assertion]) -> Iterator[str]:
    """If an answer must equal one text, every other assertion must hold for that text."""
    for exact in (leaf for leaf in leaves if leaf.type == "equals"):
        structured = isinstance(exact.value, (dict, list))
        answer = Answer(text=json.dumps(exact.value) if structured else as_text(exact.value))
        for other in leaves:
            # One object can be written in many ways: only assertions on JSON decide for all of them.
            is_certain = (
                other.kind in ("equals", "is-json", "contains-json") if structured else _is_text_only(other.kind)
            )
            if other is not exact and is_certain and other.failure(answer):
                yield f"{_shown(exact)} does not satisfy {_shown(other)}"


def _required_and_forbidden(leaves: list[Assertion]) -> Iterator[str]:
    for required in leaves:
        if required.type not in ("contains", "icontains", "starts-with", "contains-all", "icontains-all"):
            continue
        for forbidden in leaves:
            if forbidden.type not in ("not-contains", "not-icontains", "not-contains-any", "not-icontains-any"):
                continue
            ignores_case = forbidden.type.startswith("not-i")
            if required.type.startswith("i") and not ignores_case:
                continue  # the text in another case may be allowed
            for text in _texts(required):
                if any((no.lower() in text.lower()) if ignores_case else (no in text) for no in _texts(forbidden)):
                    yield f"{_shown(required)} is forbidden by {_shown(forbidden)}"
    starts = sorted({leaf.value for leaf in leaves if leaf.type == "starts-with"}, key=len)
    if any(not longer.startswith(starts[0]) for longer in starts[1:]):
        yield f"it cannot start with all of {', '.join(map(repr, starts))}"


def _lengths(leaves: list[Assertion], max_tokens: int) -> Iterator[str]:
    ranges = [_word_range(leaf) for leaf in leaves if leaf.type == "word-count"]
    low, high = max([low for low, _ in ranges], default=0), min([high for _, high in ranges], default=float("inf"))
    if low > high:
        yield f"it must have at least {low} words and at most {high:.0f}"
    if low > max_tokens:
        yield f"it must have at least {low} words, and is cut after max_tokens: {max_tokens}"


def _word_range(leaf: Assertion) -> tuple[int, float]:
    if isinstance(leaf.value, dict):
        return leaf.value.get("min", 0), leaf.value.get("max", float("inf"))
    return int(leaf.value), int(leaf.value)


def _texts(leaf: Assertion) -> list[str]:
    return as_list(leaf.value) if leaf.kind.endswith(("-all", "-any")) else [as_text(leaf.value)]


def _is_text_only(name: str) -> bool:
    kind = assertion_kinds().get(name)
    return kind is not None and kind.text_only


def _shown(leaf: Assertion) -> str:
    if leaf.value is None:
        return f"`{leaf.type}`"
    value = json.dumps(leaf.value, ensure_ascii=False)
    return f"`{leaf.type}` {value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + '…'}"
