"""Drift signals of answers: length, refusals, language, degeneracy, time, and the share of items that flipped."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.drift.degenerate import degenerate
from tasks.evaluate.drift.intervals import ratio_interval, rise_interval, share_interval
from tasks.evaluate.drift.language import UNKNOWN, language_of
from tasks.evaluate.drift.signals import DriftSignal, Side, make_signal
from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.suites.assertions.kinds.refusal import is_refusal
from weighbridge.errors import VerdictInvalid
from weighbridge.line import Bounds

MOST_EXAMPLES = 3


class ItemAnswer(BaseModel):
    """One answer to one item, with the fields that these signals read."""

    model_config = ConfigDict(frozen=True)

    id: str
    question: str
    answer: str
    cluster: str | None = None
    latency_seconds: float | None = None
    """From the request to the last token; None where it was not measured."""
    tokens: int | None = None
    """Tokens of thought and answer, as the engine counts them; None where it does not: then characters are compared."""
    thought_tokens: int | None = None
    """Tokens of the thought before the answer, among `tokens`."""
    thinks: bool = False
    """Whether the model thought before its answer."""


def item_answers(scores: SuiteScores) -> tuple[ItemAnswer, ...]:
    """Answers of a regression suite, without those that the API never gave."""
    return tuple(
        ItemAnswer(
            id=item.id,
            question=item.question,
            answer=item.answer,
            cluster=item.cluster,
            latency_seconds=item.latency_seconds,
            tokens=item.tokens,
            thought_tokens=item.thought_tokens,
            thinks=item.thinks,
        )
        for item in scores.items
        if item.trouble != "error"
    )


def answer_signals(
    production: Sequence[ItemAnswer], candidate: Sequence[ItemAnswer], bounds: Bounds, confidence: float
) -> tuple[DriftSignal, ...]:
    """Compare two models' answers, item by item.

    Args:
        production: production's answers; items that only one model answered are left out.
        candidate: the candidate's answers.
        bounds: the line's bounds.
        confidence: one-sided, of each bound.

    Raises:
        VerdictInvalid: the two have no item in common.
    """
    production_by_id = {answer.id: answer for answer in production}
    pairs = [(production_by_id[answer.id], answer) for answer in candidate if answer.id in production_by_id]
    if not pairs:
        raise VerdictInvalid(
            "The two models answered no item in common.",
            "Score both on the same suite, then compare.",
        )
    return (
        _length(pairs, bounds, confidence),
        *_thought_length(pairs, bounds, confidence),
        _refusals(pairs, bounds, confidence),
        _languages(pairs, bounds, confidence),
        _degenerate(pairs, bounds, confidence),
        *_times(pairs, bounds, confidence),
    )


def flip_signal(suites: Sequence[tuple[SuiteScores, SuiteScores]], bounds: Bounds, confidence: float) -> DriftSignal:
    """Share of items on which the two models' scores differ, in either direction, over all suites.

    Gains count as much as losses: an INT4 model that changed 19 % of its answers gained two points on 4,080 minimal
    pairs by accident (measured, docs/evidence/drift.md), and accuracy alone would have let it through. Suites are
    pooled because a suite of a hundred items says little about a share of a few per cent.

    Args:
        suites: (production, candidate) of each suite; items that only one of them has are left out.

    Raises:
        VerdictInvalid: no item in common.
    """
    names: list[Hashable] = []
    flips, gained, before, after = [], 0, 0.0, 0.0
    for production, candidate in suites:
        production_scores = {item.id: item.score for item in production.items}
        for item in candidate.items:
            if item.id in production_scores:
                was = production_scores[item.id]
                names.append((candidate.suite, *_cluster(item)))
                flips.append(item.score != was)
                gained += item.score > was
                before, after = before + was, after + item.score
    if not flips:
        raise VerdictInvalid("The two models have no scored item in common.", "Score both on the same suites.")
    lost = sum(flips) - gained
    return make_signal(
        "flips",
        share_interval(flips, names, confidence),
        unit="share",
        bound=bounds.max_flips_share,
        production=before / len(flips),
        candidate=after / len(flips),
        note=f"+{gained} −{lost} of {len(flips)} items",
    )


Pairs = list[tuple[ItemAnswer, ItemAnswer]]


def _length(pairs: Pairs, bounds: Bounds, confidence: float) -> DriftSignal:
    counted = all(answer.tokens is not None for pair in pairs for answer in pair)

    def length(answer: ItemAnswer) -> float:
        # An empty answer has length 1, so that a ratio exists; empty answers are counted as degenerate.
        return (
            float(max((answer.tokens or 0) - (answer.thought_tokens or 0), 1))
            if counted
            else float(max(len(answer.answer), 1))
        )

    return _ratio("answer length", pairs, length, bounds.max_length_ratio, confidence,
                  side="within a factor", note="" if counted else "in characters")  # fmt: skip


def _thought_length(pairs: Pairs, bounds: Bounds, confidence: float) -> list[DriftSignal]:
    """Length of the thought before the answer, where both think; a model that thinks longer costs more and is cut."""
    thought = [pair for pair in pairs if all(answer.thinks and answer.thought_tokens for answer in pair)]
    if not thought:
        return []
    return [
        _ratio(
            "thought length",
            thought,
            lambda answer: float(answer.thought_tokens or 1),
            bounds.max_length_ratio,
            confidence,
            side="within a factor",
        )
    ]


def _times(pairs: Pairs, bounds: Bounds, confidence: float) -> list[DriftSignal]:
    timed = [pair for pair in pairs if all(answer.latency_seconds for answer in pair)]
    counted = [pair for pair in timed if all(answer.tokens for answer in pair)]
    signals = []
    if timed:
        signals.append(
            _ratio("latency", timed, lambda answer: answer.latency_seconds or 0.0, bounds.max_latency_ratio, confidence)
        )
    if counted:
        signals.append(
            _ratio(
                "tokens a second",
                counted,
                lambda answer: (answer.tokens or 0) / (answer.latency_seconds or 1.0),
                bounds.min_throughput_ratio,
                confidence,
                side="at least",
            )
        )
    return signals


def _refusals(pairs: Pairs, bounds: Bounds, confidence: float) -> DriftSignal:
    # promptfoo's assertion takes an empty answer for a refusal; here it counts once, as degenerate.
    was, now = (
        [bool(answer.answer.strip()) and is_refusal(answer.answer) for answer in answers] for answers in zip(*pairs)
    )
    return make_signal(
        "refusals' rise",
        rise_interval(was, now, _clusters(pairs), confidence),
        unit="share",
        bound=bounds.max_refusal_rise,
        production=sum(was) / len(was),
        candidate=sum(now) / len(now),
        note=_examples(pairs, [after and not before for before, after in zip(was, now)]),
    )


def _languages(pairs: Pairs, bounds: Bounds, confidence: float) -> DriftSignal:
    found = [(language_of(before.answer), language_of(after.answer)) for before, after in pairs]
    detected = [(pair, languages) for pair, languages in zip(pairs, found) if UNKNOWN not in languages]
    compared, changed = [pair for pair, _ in detected], [was != now for _, (was, now) in detected]
    # One-word answers have no detectable language. Where none changed and too few are detected to decide, no bound
    # applies. Answers that did change are judged, however few they are.
    share, bound = share_interval(changed, _clusters(compared), confidence), bounds.max_language_change_share
    applies = any(changed) or (bound is not None and share.high is not None and share.high <= bound)
    missing = len(pairs) - len(detected)
    unknown = f"language of {missing} of {len(pairs)} pairs unknown" if missing else ""
    return make_signal(
        "answers in another language",
        share,
        unit="share",
        bound=bound if applies else None,
        note="; ".join(filter(None, [_examples(compared, changed), unknown])),
    )


def _degenerate(pairs: Pairs, bounds: Bounds, confidence: float) -> DriftSignal:
    """Share of answers that are degenerate where production's are not.

    Production's own degenerate answers are no drift, and a candidate that loops on other items is no improvement.
    """
    was, now = ([degenerate(answer.answer) for answer in answers] for answers in zip(*pairs))
    fresh = [bool(after) and not before for before, after in zip(was, now)]
    reasons = [reason for reason, new in zip(now, fresh) if new]
    return make_signal(
        "newly degenerate answers",
        share_interval(fresh, _clusters(pairs), confidence),
        unit="share",
        bound=bounds.max_degenerate_share,
        production=sum(map(bool, was)) / len(was),
        candidate=sum(map(bool, now)) / len(now),
        note="; ".join(filter(None, [_examples(pairs, fresh), ", ".join(dict.fromkeys(reasons[:MOST_EXAMPLES]))])),
    )


def _ratio(
    name: str,
    pairs: Pairs,
    amount: Callable[[ItemAnswer], float],
    bound: float | None,
    confidence: float,
    side: Side = "at most",
    note: str = "",
) -> DriftSignal:
    before, after = ([amount(answer) for answer in answers] for answers in zip(*pairs))
    return make_signal(
        name,
        ratio_interval(before, after, _clusters(pairs), confidence),
        unit="×",
        bound=bound,
        side=side,
        production=sum(before) / len(before),
        candidate=sum(after) / len(after),
        note=note,
    )


def _clusters(pairs: Pairs) -> list[Hashable]:
    return [_cluster(answer) for _, answer in pairs]


def _cluster(item: ItemAnswer | ItemScore) -> tuple[str, str]:
    # An item without a cluster is a cluster by itself, even if a cluster has its id as a name.
    return ("item", item.id) if item.cluster is None else ("cluster", item.cluster)


def _examples(pairs: Pairs, chosen: Sequence[bool]) -> str:
    ids = [answer.id for (_, answer), hit in zip(pairs, chosen) if hit]
    more = f" and {len(ids) - MOST_EXAMPLES} more" if len(ids) > MOST_EXAMPLES else ""
    return f"{', '.join(ids[:MOST_EXAMPLES])}{more}" if ids else ""
