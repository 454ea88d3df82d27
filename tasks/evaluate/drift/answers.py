"""What answers show beside being right: length, refusals, language, degeneracy, time; and how many changed sides."""

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


class SeenAnswer(BaseModel):
    """One answer to one item, with the fields that these signals read."""

    model_config = ConfigDict(frozen=True)

    id: str
    question: str
    answer: str
    cluster: str | None = None
    latency_seconds: float | None = None
    """From the request to the last token; None where nobody took the time."""
    tokens: int | None = None
    """Of the answer, as the engine counts; None where it does not, and characters are compared instead."""


def seen_answers(scores: SuiteScores) -> tuple[SeenAnswer, ...]:
    """A regression suite's answers; those that the API never gave are left out."""
    return tuple(
        SeenAnswer(
            id=item.id,
            question=item.question,
            answer=item.answer,
            cluster=item.cluster,
            latency_seconds=item.latency_seconds,
            tokens=item.tokens,
        )
        for item in scores.items
        if item.trouble != "error"
    )


def answer_signals(
    production: Sequence[SeenAnswer], candidate: Sequence[SeenAnswer], bounds: Bounds, confidence: float
) -> tuple[DriftSignal, ...]:
    """Compare two models' answers to the same items, each item with its own counterpart.

    Args:
        production, candidate: answers; items that only one of them has are left out.
        bounds: the line's.
        confidence: of each bound by itself.

    Raises:
        VerdictInvalid: the two have no item in common.
    """
    theirs = {one.id: one for one in production}
    pairs = [(theirs[one.id], one) for one in candidate if one.id in theirs]
    if not pairs:
        raise VerdictInvalid(
            "The two models answered no item in common.",
            "Ask both the same suite; then compare.",
        )
    return (
        _length(pairs, bounds, confidence),
        _refusals(pairs, bounds, confidence),
        _languages(pairs, bounds, confidence),
        _degenerate(pairs, bounds, confidence),
        *_times(pairs, bounds, confidence),
    )


def flip_signal(suites: Sequence[tuple[SuiteScores, SuiteScores]], bounds: Bounds, confidence: float) -> DriftSignal:
    """Share of items on which the two models' scores differ, in whichever direction, over all suites together.

    Gains count as much as losses: an INT4 model that changed 19 % of its answers gained two points on 4,080 minimal
    pairs by accident (measured, docs/evidence/drift.md), and accuracy alone would have let it through. Suites are taken
    together because one suite of a hundred items says little about a share of some per cent.

    Args:
        suites: (production, candidate) of each suite; items that only one of them has are left out.

    Raises:
        VerdictInvalid: no item in common.
    """
    names: list[Hashable] = []
    flips, gained, before, after = [], 0, 0.0, 0.0
    for production, candidate in suites:
        theirs = {item.id: item for item in production.items}
        for item in candidate.items:
            if item.id in theirs:
                was = theirs[item.id].score
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


Pairs = list[tuple[SeenAnswer, SeenAnswer]]


def _length(pairs: Pairs, bounds: Bounds, confidence: float) -> DriftSignal:
    counted = all(one.tokens is not None for pair in pairs for one in pair)

    def length(one: SeenAnswer) -> float:
        # An empty answer has a length of one, for a ratio to exist; how many are empty is told elsewhere.
        return float(max(one.tokens or 0, 1)) if counted else float(max(len(one.answer), 1))

    return _ratio("answer length", pairs, length, bounds.max_length_ratio, confidence,
                  side="within a factor", note="" if counted else "in characters")  # fmt: skip


def _times(pairs: Pairs, bounds: Bounds, confidence: float) -> list[DriftSignal]:
    timed = [pair for pair in pairs if all(one.latency_seconds for one in pair)]
    counted = [pair for pair in timed if all(one.tokens for one in pair)]
    signals = []
    if timed:
        signals.append(
            _ratio("latency", timed, lambda one: one.latency_seconds or 0.0, bounds.max_latency_ratio, confidence)
        )
    if counted:
        signals.append(
            _ratio(
                "tokens a second",
                counted,
                lambda one: (one.tokens or 0) / (one.latency_seconds or 1.0),
                bounds.min_throughput_ratio,
                confidence,
                side="at least",
            )
        )
    return signals


def _refusals(pairs: Pairs, bounds: Bounds, confidence: float) -> DriftSignal:
    # An empty answer counts as a refusal to promptfoo's assertion; here it is degenerate, and counted once.
    was, now = ([bool(one.answer.strip()) and is_refusal(one.answer) for one in side] for side in zip(*pairs))
    return make_signal(
        "refusals' rise",
        rise_interval(was, now, _clusters(pairs), confidence),
        unit="share",
        bound=bounds.max_refusal_rise,
        production=sum(was) / len(was),
        candidate=sum(now) / len(now),
        note=_examples(pairs, [ours and not theirs for theirs, ours in zip(was, now)]),
    )


def _languages(pairs: Pairs, bounds: Bounds, confidence: float) -> DriftSignal:
    found = [(language_of(theirs.answer), language_of(ours.answer)) for theirs, ours in pairs]
    known = [(pair, languages) for pair, languages in zip(pairs, found) if UNKNOWN not in languages]
    kept, changed = [pair for pair, _ in known], [was != now for _, (was, now) in known]
    # One-word answers have no language that could drift: where none changed and too few are known to tell, nothing is
    # asked. Those that did change are judged however few they are.
    share, bound = share_interval(changed, _clusters(kept), confidence), bounds.max_language_change_share
    asked = any(changed) or (bound is not None and share.high is not None and share.high <= bound)
    unknown = f"language of {len(pairs) - len(known)} of {len(pairs)} pairs unknown" if len(known) < len(pairs) else ""
    return make_signal(
        "answers in another language",
        share,
        unit="share",
        bound=bound if asked else None,
        note="; ".join(filter(None, [_examples(kept, changed), unknown])),
    )


def _degenerate(pairs: Pairs, bounds: Bounds, confidence: float) -> DriftSignal:
    """Answers that are degenerate where production's were not: a share of its own that a line cannot inherit.

    What production does itself is no drift, and a candidate that loops elsewhere instead is no improvement.
    """
    was, now = ([degenerate(one.answer) for one in side] for side in zip(*pairs))
    fresh = [bool(ours) and not theirs for theirs, ours in zip(was, now)]
    reasons = [ours for ours, new in zip(now, fresh) if new]
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
    amount: Callable[[SeenAnswer], float],
    bound: float | None,
    confidence: float,
    side: Side = "at most",
    note: str = "",
) -> DriftSignal:
    theirs, ours = ([amount(one) for one in side] for side in zip(*pairs))
    return make_signal(
        name,
        ratio_interval(theirs, ours, _clusters(pairs), confidence),
        unit="×",
        bound=bound,
        side=side,
        production=sum(theirs) / len(theirs),
        candidate=sum(ours) / len(ours),
        note=note,
    )


def _clusters(pairs: Pairs) -> list[Hashable]:
    return [_cluster(ours) for _, ours in pairs]


def _cluster(one: SeenAnswer | ItemScore) -> tuple[str, str]:
    # An item without a cluster is one of its own, whatever others are called.
    return ("item", one.id) if one.cluster is None else ("cluster", one.cluster)


def _examples(pairs: Pairs, chosen: Sequence[bool]) -> str:
    ids = [ours.id for (_, ours), hit in zip(pairs, chosen) if hit]
    more = f" and {len(ids) - MOST_EXAMPLES} more" if len(ids) > MOST_EXAMPLES else ""
    return f"{', '.join(ids[:MOST_EXAMPLES])}{more}" if ids else ""
