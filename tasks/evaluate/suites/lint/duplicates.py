"""Lint rule: equal and nearly equal items, which a verdict would count as independent."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tasks.evaluate.suites.lint.finding import SHOWN, Finding, Item, list_ids

NEAR = 0.9
"""Jaccard similarity of two texts' sets of words from which they are nearly equal."""


def duplicates(items: Sequence[Item]) -> list[Finding]:
    """Report each group of equal prompts, and all pairs of nearly equal ones together."""
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        groups[_plain(item.context), _plain(item.text)].append(item)
    findings = [
        Finding(
            level="warning",
            code="duplicate-prompt",
            where=group[0].where,
            what=f"{len(group)} items with one prompt count as independent: {list_ids([item.id for item in group])}",
        )
        for group in groups.values()
        if len(group) > 1
    ]
    pairs = [pair for context in _by_context(groups) for pair in near_pairs(context)]
    if pairs:
        shown = "; ".join(f"{left.id} and {right.id}" for left, right in pairs[:SHOWN])
        what = (
            f"{len(pairs)} pairs of items share at least {NEAR:.0%} of their words: {shown}"
            f"{' and more' if len(pairs) > SHOWN else ''}; they count as independent, and their answers are not"
        )
        findings.append(Finding(level="warning", code="near-duplicate", where=pairs[0][0].where, what=what))
    return findings


def _by_context(groups: dict[tuple[str, str], list[Item]]) -> Iterator[list[Item]]:
    contexts: dict[str, list[Item]] = defaultdict(list)
    for (context, _), group in groups.items():
        contexts[context].append(group[0])
    yield from contexts.values()


def near_pairs(items: Sequence[Item], near: float = NEAR) -> list[tuple[Item, Item]]:
    """Return all pairs of items whose sets of words have a Jaccard similarity of at least `near`.

    Two such sets share a word among the first |set| - ceil(near * |set|) + 1 words of each, rarest first, so only
    these are looked up (prefix filtering: Bayardo, Ma, Srikant, "Scaling up all pairs similarity search", WWW 2007).
    The method is exact, and fast even if all items share a template.
    """
    words = [frozenset(_plain(item.text).split()) for item in items]
    frequency = Counter(word for text in words for word in text)
    index: dict[str, list[int]] = defaultdict(list)
    pairs = []
    for place, text in enumerate(words):
        rare_first = sorted(text, key=lambda word: (frequency[word], word))
        prefix = rare_first[: len(text) - math.ceil(near * len(text)) + 1]
        for other in sorted({other for word in prefix for other in index[word]}):
            shared = len(text & words[other])
            if shared >= near * (len(text) + len(words[other]) - shared):
                pairs.append((items[other], items[place]))
        for word in prefix:
            index[word].append(place)
    return pairs


def _plain(text: str) -> str:
    """The text without case, punctuation and spacing; a text of signs only stays as it is."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()
