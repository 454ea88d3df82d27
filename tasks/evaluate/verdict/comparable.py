"""May two scorings be compared at all, what differs between them, and how much of it is noise: in words.

A verdict on scores that came about differently would be wrong without anybody noticing, so it is `invalid`
instead. What may rightly differ between a candidate and production, such as the quantization, is named as a
change and stops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import Conditions, SuiteScores
from tasks.evaluate.verdict.paired import loss_p_value
from tasks.evaluate.verdict.verdict import SuiteVerdict, judge_suite

MOST_TROUBLE_SHARE = 0.02
"""Share of a suite's answers that may be cut off, empty or no answers before nothing is said at all."""
REAL_DIFFERENCE_P_VALUE = 0.01
"""Below it, two scorings of one model differ by more than noise: a sign test on what flipped, in either direction."""
UNKNOWN = ""

MUST_AGREE = {
    "scorer": "the scorer",
    "parsing": "how an answer becomes a score",
    "engine": "the engine",
    "flags": "the engine's flags or device",
    "sampling": "the sampling parameters",
    "few_shot": "the number of examples in the prompt",
}
MAY_CHANGE = {
    "chat_template": "the chat template",
    "tokenizer": "the tokenizer",
    "generation_config": "the generation config",
    "quantization": "the quantization",
    "batch": "the batch size",
}
"""Fields of `Conditions` with their names in a sentence; together they are all of them."""

Judge = Callable[[SuiteScores, SuiteScores | None], SuiteVerdict]


class Troubles(BaseModel):
    """How many of a scoring's answers were not whole."""

    model_config = ConfigDict(frozen=True)

    items: int
    truncated: int
    empty: int
    error: int

    @property
    def share(self) -> float:
        """Of all items, 0 to 1."""
        return (self.truncated + self.empty + self.error) / self.items if self.items else 0.0

    @property
    def sentence(self) -> str:
        """The same in words; nothing where all was well."""
        counts = {"cut off": self.truncated, "empty": self.empty, "no answers at all": self.error}
        named = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
        return f"{named} of {self.items} answers ({self.share:.1%})" if named else ""


def troubles_of(scores: SuiteScores) -> Troubles:
    """Count the answers that were not whole."""
    kinds = [item.trouble for item in scores.items]
    return Troubles(
        items=len(kinds),
        truncated=kinds.count("truncated"),
        empty=kinds.count("empty"),
        error=kinds.count("error"),
    )


def why_incomparable(candidate: SuiteScores, production: SuiteScores, may_differ: frozenset[str] = frozenset()) -> str:
    """Why two scorings must not be compared, every reason; or nothing.

    Args:
        may_differ: fields of `Conditions` that somebody has said may differ.
    """
    reasons = []
    if candidate.suite_digest != production.suite_digest:
        reasons.append(
            "the suite changed between the two scorings: "
            f"{production.suite_digest[:12]} for production, {candidate.suite_digest[:12]} for the candidate"
        )
    if problem := _other_items(candidate, production):
        reasons.append(problem)
    ours, theirs = candidate.conditions, production.conditions
    if ours is not None and theirs is not None:
        reasons += disagreements(ours, theirs, may_differ)
    elif candidate.scorer != production.scorer:
        reasons.append(f"scored differently: {production.scorer!r} for production, {candidate.scorer!r} now")
    for who, scores in (("the candidate", candidate), ("production", production)):
        troubles = troubles_of(scores)
        if troubles.share > MOST_TROUBLE_SHARE:
            reasons.append(f"{who} gave {troubles.sentence}; at most {MOST_TROUBLE_SHARE:.0%} may be")
    return f"{'; '.join(reasons)}." if reasons else ""


def disagreements(candidate: Conditions, production: Conditions, may_differ: frozenset[str] = frozenset()) -> list[str]:
    """What must agree between two scorings and does not: known before anything is scored."""
    return [
        _difference(words, getattr(production, field), getattr(candidate, field))
        for field, words in MUST_AGREE.items()
        if field not in may_differ and getattr(candidate, field) != getattr(production, field)
    ]


def changes(
    candidate: Conditions | None, production: Conditions | None, may_differ: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """What differs between the two and may, one sentence each; what is unknown of either is not counted."""
    if candidate is None or production is None:
        return ()
    fields = MAY_CHANGE | {field: words for field, words in MUST_AGREE.items() if field in may_differ}
    pairs = [(words, getattr(production, field), getattr(candidate, field)) for field, words in fields.items()]
    return tuple(_difference(words, was, now) for words, was, now in pairs if was != now and UNKNOWN not in (was, now))


def flips_share(one: SuiteScores, other: SuiteScores) -> float | None:
    """Share of the items that two scorings have in common on which their scores differ; None without such items."""
    theirs = {item.id: item.score for item in other.items}
    both = [(item.score, theirs[item.id]) for item in one.items if item.id in theirs]
    return sum(left != right for left, right in both) / len(both) if both else None


def far_from_earlier(production: SuiteScores, earlier: Sequence[SuiteScores]) -> tuple[float, str]:
    """Whether production's scores are far from what the very same model scored before, under whatever conditions.

    Returns:
        The largest distance of the means that is more than noise, and it in words; 0 and nothing where there is none.
    """
    worst, words = 0.0, ""
    for other in earlier:
        theirs = {item.id: item.score for item in other.items}
        both = [(item.score, theirs[item.id]) for item in production.items if item.id in theirs]
        up, down = sum(now > was for now, was in both), sum(now < was for now, was in both)
        distance = sum(now - was for now, was in both) / len(both) if both else 0.0
        # Either direction may be the surprise, so each gets half.
        chance = min(2 * min(loss_p_value(up, down), loss_p_value(down, up)), 1.0)
        if chance < REAL_DIFFERENCE_P_VALUE and abs(distance) > abs(worst):
            worst = distance
            words = (
                f"production scores {distance:+.1%} beside its own earlier scoring, and +{up} −{down} flips are no "
                f"noise (earlier: {other.scorer})"
            )
    return worst, words


def weigh_suite(
    candidate: SuiteScores,
    production: SuiteScores | None,
    *,
    margin: float,
    confidence: float,
    may_differ: frozenset[str] = frozenset(),
    earlier: Sequence[SuiteScores] = (),
    again: SuiteScores | None = None,
    judge: Judge | None = None,
) -> SuiteVerdict:
    """One suite's verdict: comparable first, then judged.

    Args:
        candidate, production: the scores; production None while nothing serves.
        margin, confidence: as for `judge_suite`.
        may_differ: fields of `Conditions` that somebody has said may differ.
        earlier: production's scorings of the same suite by other scorers or engines.
        again: production scored a second time, from which follows the noise floor.
        judge: what draws the verdict of comparable scores; `judge_suite` by default.
    """
    judge = judge or (lambda ours, theirs: judge_suite(ours, theirs, margin=margin, confidence=confidence))
    if production is None:
        return judge(candidate, None)
    notes = [_told_troubles(candidate, "The candidate"), _told_troubles(production, "Production")]
    reason = why_incomparable(candidate, production, may_differ)
    distance, words = far_from_earlier(production, earlier)
    if not reason and abs(distance) > margin:
        reason = f"{words}; find out what changed in the scoring before believing either."
    elif words:
        notes.append(f"{words[0].upper()}{words[1:]}.")
    if reason:
        verdict = invalid(candidate, production, reason, margin=margin, confidence=confidence)
    else:
        # The scorer's name is the book's key; field by field they have been found to agree, or allowed not to.
        verdict = judge(candidate, production.model_copy(update={"scorer": candidate.scorer}))
    return verdict.model_copy(
        update={
            "note": " ".join(filter(None, [verdict.note, *notes])),
            "changed": changes(candidate.conditions, production.conditions, may_differ),
            "noise_flips_share": flips_share(production, again) if again else None,
        }
    )


def invalid(
    candidate: SuiteScores, production: SuiteScores | None, reason: str, *, margin: float, confidence: float
) -> SuiteVerdict:
    """A verdict that says why there is none."""
    return SuiteVerdict(
        suite=candidate.suite,
        outcome="invalid",
        reason=reason,
        margin=margin,
        confidence=confidence,
        items=len(candidate.items),
        candidate_mean=candidate.mean,
        production_mean=production.mean if production else None,
        must_pass_failed=tuple(item.id for item in candidate.items if item.must_pass and item.score < 1),
    )


def _other_items(candidate: SuiteScores, production: SuiteScores) -> str:
    ours, theirs = ({item.id: None for item in scores.items} for scores in (candidate, production))
    if not ours:
        return "no item was scored"
    if candidate.suite_items is not None:
        # Scoring stopped once the question was settled: production must have all that was asked.
        ours = {**ours, **theirs} if not ours.keys() - theirs.keys() else ours
    only_ours, only_theirs = [id for id in ours if id not in theirs], [id for id in theirs if id not in ours]
    if not only_ours and not only_theirs:
        return ""
    examples = ", ".join(id for pair in zip_longest(only_theirs[:2], only_ours[:2]) for id in pair if id)
    return (
        f"the two were not asked the same items: {len(only_theirs)} only production's, {len(only_ours)} only the "
        f"candidate's ({examples})"
    )


def _difference(words: str, was: object, now: object) -> str:
    told = ["unknown" if value == UNKNOWN else value for value in (now, was)]
    return f"{words} is {told[0]}, and {told[1]} in production"


def _told_troubles(scores: SuiteScores, who: str) -> str:
    sentence = troubles_of(scores).sentence
    return f"{who} gave {sentence}." if sentence else ""
