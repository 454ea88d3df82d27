"""Whether two scorings may be compared, and what differs between their conditions, in words.

A verdict on scores that were produced differently would be wrong without notice, so it is `invalid`
instead. Permitted differences between a candidate and production, such as the quantization, are named as changes.
"""

from __future__ import annotations

from itertools import zip_longest

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import Conditions, SuiteScores
from tasks.evaluate.verdict.paired import loss_p_value

MAX_TROUBLE_SHARE = 0.02
"""Largest share of a suite's answers that may be cut off, empty or missing in a valid comparison."""
MOST_NAMED = 3
MAX_THINKING_DIFFERENCE = 0.1
"""Largest difference of the shares of items before which the two models think."""
THINKING_ERROR = 0.001
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
    "thoughts": "how the model marks its thoughts",
}
"""Fields of `Conditions` with their names in a sentence; the two tables together have all fields."""


class Troubles(BaseModel):
    """Counts of a scoring's incomplete answers."""

    model_config = ConfigDict(frozen=True)

    items: int
    truncated: int
    empty: int
    error: int
    unfinished_thought: int = 0
    unknown_end: int = 0
    cut: tuple[str, ...] = ()
    """Ids of the first items whose answers were cut off."""

    @property
    def too_many(self) -> bool:
        """Whether no verdict may be drawn from the scoring."""
        return self.share > MAX_TROUBLE_SHARE

    @property
    def share(self) -> float:
        """Share of all items, 0 to 1."""
        troubled = self.truncated + self.empty + self.error + self.unfinished_thought + self.unknown_end
        return troubled / self.items if self.items else 0.0

    @property
    def sentence(self) -> str:
        """The counts in words; empty where every answer is complete."""
        counts = {
            "cut off": self.truncated,
            "ended inside the thought": self.unfinished_thought,
            "without a word whether they ended": self.unknown_end,
            "empty": self.empty,
            "no answers at all": self.error,
        }
        named = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
        return f"{named} of {self.items} answers ({self.share:.1%})" if named else ""


def troubles_of(scores: SuiteScores) -> Troubles:
    """Count the incomplete answers."""
    kinds = [item.trouble for item in scores.items]
    return Troubles(
        items=len(kinds),
        truncated=kinds.count("truncated"),
        empty=kinds.count("empty"),
        error=kinds.count("error"),
        cut=tuple(item.id for item in scores.items if item.trouble == "truncated")[:MOST_NAMED],
        unfinished_thought=kinds.count("unfinished thought"),
        unknown_end=kinds.count("unknown end"),
    )


def troubles_ahead(baseline: SuiteScores) -> str:
    """Say of a first scoring that nothing can be compared with it, while it is early to mend that; else empty."""
    troubles = troubles_of(baseline)
    if not troubles.too_many:
        return ""
    return f" Nothing could be compared with it: {troubles.sentence}; {_limit(troubles)}."


def why_incomparable(
    candidate: SuiteScores,
    production: SuiteScores,
    may_differ: frozenset[str] = frozenset(),
    *,
    whole: bool = False,
) -> str:
    """Every reason why two scorings must not be compared; empty where they may.

    Args:
        candidate: its scores; they may stop early where `suite_items` says so and `whole` is false.
        production: its scores on the same suite.
        may_differ: fields of `Conditions` that a person has allowed to differ.
        whole: whether the comparison needs every item, in the same order on both sides.
    """
    reasons = []
    if candidate.suite_digest != production.suite_digest:
        reasons.append(
            "the suite changed between the two scorings: "
            f"{production.suite_digest[:12]} for production, {candidate.suite_digest[:12]} for the candidate"
        )
    if problem := _different_items(candidate, production, whole):
        reasons.append(problem)
    if candidate.conditions is not None and production.conditions is not None:
        reasons += disagreements(candidate.conditions, production.conditions, may_differ)
    elif candidate.scorer != production.scorer:
        reasons.append(f"scored differently: {production.scorer!r} for production, {candidate.scorer!r} now")
    if not all(0 <= item.score <= 1 for item in (*candidate.items, *production.items)):
        reasons.append("a score is not between 0 and 1")
    for side, scores in (("the candidate", candidate), ("production", production)):
        troubles = troubles_of(scores)
        if troubles.too_many:
            reasons.append(f"{side} gave {troubles.sentence}; {_limit(troubles)}")
    if problem := think_unlike(candidate, production):
        reasons.append(problem)
    return f"{'; '.join(reasons)}." if reasons else ""


def think_unlike(candidate: SuiteScores, production: SuiteScores) -> str:
    """Say so if one of the two thinks before its answers and the other does not; empty if they think alike.

    They think unlike where the shares of the items with a thought differ by more than MAX_THINKING_DIFFERENCE, and a
    two-sided sign test on the items where only one of them thinks rejects chance at THINKING_ERROR. So two models that
    think equally often are called unlike at most that often, at any number of items.
    """
    before = {item.id: item.thinks for item in production.items}
    pairs = [(before[item.id], item.thinks) for item in candidate.items if item.id in before]
    more, less = sum(now and not was for was, now in pairs), sum(was and not now for was, now in pairs)
    if not pairs or abs(more - less) <= MAX_THINKING_DIFFERENCE * len(pairs):
        return ""
    if 2 * min(loss_p_value(more, less), loss_p_value(less, more)) > THINKING_ERROR:
        return ""
    was, now = (sum(side) / len(pairs) for side in zip(*pairs))
    return (
        f"the candidate thought before {now:.0%} of its answers, and production before {was:.0%}: set both to "
        "think, or neither"
    )


def disagreements(candidate: Conditions, production: Conditions, may_differ: frozenset[str] = frozenset()) -> list[str]:
    """Conditions that must agree and do not, a clause each; known before anything is scored."""
    return [
        _difference(words, getattr(production, field), getattr(candidate, field))
        for field, words in MUST_AGREE.items()
        if field not in may_differ and getattr(candidate, field) != getattr(production, field)
    ]


def changes(
    candidate: Conditions | None, production: Conditions | None, may_differ: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Permitted differences between the two, a clause each; a field that is unknown on one side is not counted."""
    if candidate is None or production is None:
        return ()
    fields = MAY_CHANGE | {field: words for field, words in MUST_AGREE.items() if field in may_differ}
    values = [(words, getattr(production, field), getattr(candidate, field)) for field, words in fields.items()]
    return tuple(
        _difference(words, before, after)
        for words, before, after in values
        if before != after and UNKNOWN not in (before, after)
    )


def _limit(troubles: Troubles) -> str:
    """How many may be, and what to do about answers that were cut off."""
    remedies = []
    if troubles.cut:
        remedies.append(f"give {', '.join(troubles.cut)} a larger `max_tokens`, or `may_be_cut`")
    if troubles.unfinished_thought:
        remedies.append("give the items `thinking_tokens` for the thought, or raise the engine's own limit")
    remedy = f" ({'; '.join(remedies)})" if remedies else ""
    return f"at most {MAX_TROUBLE_SHARE:.0%} may be{remedy}"


def _different_items(candidate: SuiteScores, production: SuiteScores, whole: bool) -> str:
    if not candidate.items:
        return "no item was scored"
    # Dictionaries keep the order, for the examples.
    candidate_ids, production_ids = ({item.id: None for item in side.items} for side in (candidate, production))
    if candidate.suite_items is not None and not whole and not candidate_ids.keys() - production_ids.keys():
        # Scoring stopped once the question was settled: production must have every item that was scored, no more.
        return ""
    only_candidate = [id for id in candidate_ids if id not in production_ids]
    only_production = [id for id in production_ids if id not in candidate_ids]
    if only_candidate or only_production:
        pairs = zip_longest(only_production[:2], only_candidate[:2])
        examples = ", ".join(id for pair in pairs for id in pair if id)
        return (
            f"the two were not scored on the same items: {len(only_production)} by production only, "
            f"{len(only_candidate)} by the candidate only ({examples})"
        )
    if whole and [item.id for item in candidate.items] != [item.id for item in production.items]:
        return "the two were not scored on the same items in the same order"
    return ""


def _difference(words: str, before: object, after: object) -> str:
    now, was = ("unknown" if value == UNKNOWN else value for value in (after, before))
    return f"{words} is {now}, and {was} in production"
