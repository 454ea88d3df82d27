"""Assertions on similarity: published measures, computed by sacrebleu, equal on every machine.

In promptfoo `similar` is the cosine of embeddings. There is no embedding model here, and a suite must not change its
meaning silently, so `similar` is refused unless it names another measure. With `provider: local:chrf` it is chrF
(Popović, WMT 2015, https://aclanthology.org/W15-3049): the F2 score of shared character 1- to 6-grams. It compares
spelling, not meaning, and needs a threshold of its own scale.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tasks.evaluate.suites.assertions.answer import Answer
from tasks.evaluate.suites.assertions.base import AssertionKind, AssertionSpec, is_share

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU, CHRF

BLEU_DEFAULT = 0.5
"""promptfoo's default threshold."""
LOCAL_MEASURE = "local:chrf"


@cache
def _bleu() -> BLEU:
    from sacrebleu.metrics import BLEU  # imported here: it takes 0.9 s

    # As in promptfoo: case is ignored, words are split at spaces. Unlike there, with the effective order: without it a
    # perfect answer of fewer than four words scores 0.
    return BLEU(lowercase=True, tokenize="none", effective_order=True)


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics import CHRF

    return CHRF()


def _references(spec: AssertionSpec) -> list[str]:
    return spec.value if isinstance(spec.value, list) else [spec.value]


def _bleu_holds(spec: AssertionSpec, answer: Answer) -> bool:
    score = _bleu().sentence_score(answer.shown.strip(), _references(spec)).score / 100
    return bool(score >= (BLEU_DEFAULT if spec.threshold is None else spec.threshold))


def _similar(spec: AssertionSpec, answer: Answer) -> bool:
    # The nearest of several texts counts, as in promptfoo.
    scores = (_chrf().sentence_score(answer.shown.strip(), [text]).score / 100 for text in _references(spec))
    return bool(max(scores) >= (spec.threshold or 0))


def _texts_problem(spec: AssertionSpec) -> str:
    texts = _references(spec)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        return "needs a text, or a list of texts, as value"
    return "" if is_share(spec.threshold) else "needs a threshold between 0 and 1"


def _measure_problem(spec: AssertionSpec) -> str:
    if spec.provider != LOCAL_MEASURE:
        named = f", not {spec.provider!r}" if spec.provider else ""
        return (
            f"compares embeddings in promptfoo, and there is no embedding model here{named}: write `icontains-any` "
            f"or `bleu`, or name `provider: {LOCAL_MEASURE}` (shared character n-grams) with a threshold of that scale"
        )
    if spec.threshold is None:
        return "needs a threshold of chrF's own scale (0 to 1): promptfoo's default is meant for embeddings"
    return _texts_problem(spec)


KINDS = {
    "bleu": AssertionKind(_bleu_holds, _texts_problem, text_only=True),
    "similar": AssertionKind(_similar, _measure_problem, text_only=True, takes_provider=True),
}
