"""All drift signals drawn together."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.drift.signals import DriftSignal
from tasks.evaluate.verdict.outcomes import Outcome

MOST_NAMED = 3
"""Signals named in the sentence; the rest are in the table."""


class DriftReport(BaseModel):
    """How far a candidate has moved from what it is compared with, and whether that is within the line's bounds."""

    model_config = ConfigDict(frozen=True)

    candidate_digest: str
    production_digest: str
    outcome: Outcome
    """`non_inferior` (every signal within its bound), `regression`, `inconclusive` or `invalid`."""
    signals: tuple[DriftSignal, ...]
    changed: tuple[str, ...] = ()
    """What differs between the two folders' small files and may change answers; a sentence each."""
    sentence: str
    """The report in one sentence."""

    @property
    def stops(self) -> bool:
        """Whether scoring is useless, because it could not make this candidate pass."""
        return self.outcome in ("regression", "invalid")

    @property
    def kl_nats(self) -> float | None:
        """KL divergence, nats a token; None where it was not measured."""
        return next((signal.difference for signal in self.signals if signal.name == "KL"), None)


def draw(
    signals: Sequence[DriftSignal],
    *,
    candidate_digest: str,
    production_digest: str,
    changed: Sequence[str] = (),
    invalid: str = "",
    must_show: Sequence[str] | None = None,
) -> DriftReport:
    """Draw signals together: the gravest one decides.

    All bounds must hold for a pass, so each is tested at its own level (an intersection-union test, as for suites).

    Args:
        signals: each decided against its own bound.
        candidate_digest: digest of the candidate.
        production_digest: digest of what the candidate is compared with.
        changed: differences in the two folders' small files, a sentence each.
        invalid: the reason why nothing can be compared; empty where it can.
        must_show: names of signals that must be shown to lie within their bounds, by default all. Others count only
            when they are shown to lie beyond, because a short suite cannot show more (58 answers, a share of 5 %).
    """
    worse = [signal for signal in signals if signal.outcome == "worse"]
    unsure = [
        signal for signal in signals if signal.outcome == "unsure" and (must_show is None or signal.name in must_show)
    ]
    outcome: Outcome = "non_inferior"
    sentence = f"Within the bounds on {sum(signal.outcome == 'ok' for signal in signals)} signals."
    if invalid:
        outcome, sentence = "invalid", f"Not comparable: {invalid}"
    elif worse:
        outcome, sentence = "regression", f"Regression: {_named(worse)}."
    elif unsure:
        outcome, sentence = "inconclusive", f"Not enough evidence: {_named(unsure)}."
    return DriftReport(
        candidate_digest=candidate_digest,
        production_digest=production_digest,
        outcome=outcome,
        signals=tuple(signals),
        changed=tuple(changed),
        sentence=sentence,
    )


def _named(signals: list[DriftSignal]) -> str:
    named = "; ".join(signal.sentence for signal in signals[:MOST_NAMED])
    rest = len(signals) - MOST_NAMED
    return f"{named}; and {rest} more" if rest > 0 else named
