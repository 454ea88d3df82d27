"""Suites in which guessing pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt

from tasks.evaluate.suites.lint.finding import Finding, Item

ENOUGH = 10
"""Items below which a share says nothing."""
DOMINANT = 0.6
"""Share of one expected answer from which always giving it looks like skill."""
DEVIATIONS = 3.0
"""How many standard errors the favourite place of the right option may lie from its even share."""


def imbalance(items: Sequence[Item], where: str) -> list[Finding]:
    """One expected answer, or one place of the right option, far ahead of the others."""
    findings = []
    expected = Counter(" ".join(item.expected.casefold().split()) for item in items if item.expected)
    total = expected.total()
    if total >= ENOUGH and len(expected) > 1:
        answer, count = expected.most_common(1)[0]
        if count / total > DOMINANT:
            what = (
                f"{count} of {total} items want {answer!r}: a model that always says so is right in {count / total:.0%}"
            )
            findings.append(Finding(level="warning", code="dominant-answer", where=where, what=what))
    by_length: dict[int, list[int]] = {}
    for item in items:
        if item.options and item.place is not None:
            by_length.setdefault(len(item.options), []).append(item.place)
    for options, places in sorted(by_length.items()):
        place, count = Counter(places).most_common(1)[0]
        even = 1 / options
        error = sqrt(even * (1 - even) / len(places))
        if options > 1 and len(places) >= ENOUGH and count / len(places) > even + DEVIATIONS * error:
            what = (
                f"of {len(places)} items with {options} options that the model sees in order, the right one stands at "
                f"place {place + 1} in {count / len(places):.0%}: a habit of choosing it looks like skill"
            )
            findings.append(Finding(level="warning", code="favourite-place", where=where, what=what))
    return findings
