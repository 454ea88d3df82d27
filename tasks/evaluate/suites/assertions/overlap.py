"""Assertions on likeness: published measures, computed by sacrebleu, the same on every machine.

`similar` is an embedding's cosine in promptfoo. No embedding model is at hand here, and a suite must not
change its meaning in silence, so it is refused unless the assertion names a measure of its own: with
`provider: local:chrf` it is chrF (Popović, WMT 2015, https://aclanthology.org/W15-3049): the F2 score of
shared character 1- to 6-grams. It sees spelling, not meaning, and needs a threshold of its own scale.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tasks.evaluate.suites.assertions.answer import Answer
from tasks.evaluate.suites.assertions.base import Kind, Wanted, is_share

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU, CHRF

BLEU_DEFAULT = 0.5
"""promptfoo's default threshold."""
LOCAL_MEASURE = "local:chrf"


@cache
def _bleu() -> BLEU:
    from sacrebleu.metrics import BLEU  # 0.9 s that a suite without such assertions need not pay

    # As promptfoo: any case, words between spaces. Unlike it, with the effective order, without which a
    # perfect answer of fewer than four words scores 0.
    return BLEU(lowercase=True, tokenize="none", effective_order=True)


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics import CHRF

    return CHRF()


def _references(wanted: Wanted) -> list[str]:
    return wanted.value if isinstance(wanted.value, list) else [wanted.value]


def _bleu_holds(wanted: Wanted, answer: Answer) -> bool:
    score = _bleu().sentence_score(answer.shown.strip(), _references(wanted)).score / 100
    return bool(score >= (BLEU_DEFAULT if wanted.threshold is None else wanted.threshold))


def _similar(wanted: Wanted, answer: Answer) -> bool:
    # Against several texts, the nearest one counts, as in promptfoo.
    scores = (_chrf().sentence_score(answer.shown.strip(), [text]).score / 100 for text in _references(wanted))
    return bool(max(scores) >= (wanted.threshold or 0))


def _lacks_texts(wanted: Wanted) -> str:
    texts = _references(wanted)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        return "needs a text, or a list of texts, as value"
    return "" if is_share(wanted.threshold) else "needs a threshold between 0 and 1"


def _lacks_measure(wanted: Wanted) -> str:
    if wanted.provider != LOCAL_MEASURE:
        asked = f", not {wanted.provider!r}" if wanted.provider else ""
        return (
            f"is an embedding's cosine in promptfoo and there is no embedding model here{asked}: write `icontains-any` "
            f"or `bleu`, or name `provider: {LOCAL_MEASURE}` (shared character n-grams) with a threshold of that scale"
        )
    if wanted.threshold is None:
        return "needs a threshold of chrF's own scale (0 to 1): promptfoo's default is made for embeddings"
    return _lacks_texts(wanted)


KINDS = {"bleu": Kind(_bleu_holds, _lacks_texts), "similar": Kind(_similar, _lacks_measure)}
