"""Lint rule: suites in which guessing pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt

from tasks.evaluate.suites.lint.finding import Finding, Item

ENOUGH = 10
"""Shares of fewer items are not evaluated."""
DOMINANT = 0.6
"""Share of one expected answer from which always giving it looks like skill."""
STANDARD_ERRORS = 3.0
"""Distance of the right option's most common place from its even share that is reported, in standard errors."""


def imbalance(items: Sequence[Item], where: str) -> list[Finding]:
    """Report an expected answer, or a place of the right option, that is far more common than the others."""
    findings = []
    expected = Counter(" ".join(item.expected.casefold().split()) for item in items if item.expected)
    total = expected.total()
    if total >= ENOUGH and len(expected) > 1:
        answer, count = expected.most_common(1)[0]
        if count / total > DOMINANT:
            what = (
                f"{count} of {total} items expect {answer!r}: always giving that answer is right in {count / total:.0%}"
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
        if options > 1 and len(places) >= ENOUGH and count / len(places) > even + STANDARD_ERRORS * error:
            what = (
                f"of {len(places)} items with {options} options that the model sees in order, the right one is at "
                f"place {place + 1} in {count / len(places):.0%}: always choosing it looks like skill"
            )
            findings.append(Finding(level="warning", code="favourite-place", where=where, what=what))
    return findings
