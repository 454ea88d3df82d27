"""The verdict: is the candidate no worse than production, by a margin, at a confidence, on the same items?

Each suite is one paired non-inferiority test with one of four outcomes: `non_inferior` (shown no worse than the
margin), `regression` (shown worse than the margin), `inconclusive` (neither is shown), `invalid` (the scores cannot be
compared). A release passes when every suite is non-inferior and every must-pass item passes. Because *all* must hold,
testing each suite at its own level does not inflate the error of passing (intersection-union test, Berger 1982).
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.verdict.comparable import troubles_ahead, why_incomparable
from tasks.evaluate.verdict.outcomes import OUTCOMES, Outcome, gravest
from tasks.evaluate.verdict.would_decide import would_decide

if TYPE_CHECKING:
    from tasks.evaluate.verdict.sequential import Pairs

SUSPICIOUS_GAIN = (
    "Better than production by more than the margin: quantizing does not improve a model. Compare the chat templates, "
    "the prompts and the answers that changed before believing it."
)


class SuiteVerdict(BaseModel):
    """One suite's outcome with its numbers (scores on a scale of 0 to 1)."""

    model_config = ConfigDict(frozen=True)

    suite: str
    outcome: Outcome
    reason: str
    margin: float
    confidence: float
    items: int
    candidate_mean: float
    production_mean: float | None = None
    estimate: float | None = None
    """Candidate minus production."""
    low: float | None = None
    """Lower bound of the difference, one-sided at the confidence."""
    high: float | None = None
    """Upper bound, one-sided at the confidence of a regression: 0.90 where the confidence is 0.95."""
    gained: int = 0
    """Items on which the candidate scored higher than production."""
    lost: int = 0
    """Items on which the candidate scored lower than production."""
    loss_p_value: float | None = None
    """P-value of the hypothesis that the candidate lost nothing."""
    note: str = ""
    """A warning for the reviewer that does not change the outcome, such as a gain too large to be true."""
    must_pass_failed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Permitted differences between the two models' conditions, such as the chat template; a sentence each."""
    noise_flips_share: float | None = None
    """Share of items that flipped when production was scored twice, 0 to 1; None where it was scored once."""
    suite_items: int | None = None
    """Size of the whole suite where scoring stopped early, so that `items` is smaller; else None."""


class Movement(BaseModel):
    """The drift signals of one kind, drawn together."""

    model_config = ConfigDict(frozen=True)

    name: str
    """`distributions` (on held text, against the release as published) or `answers` (against production)."""
    outcome: Outcome
    sentence: str


class Verdict(BaseModel):
    """The outcome of all suites and drift signals of one candidate."""

    model_config = ConfigDict(frozen=True)

    artifact_digest: str
    production_digest: str | None
    """Digest of the artifact that it was weighed against; None for a line's first release."""
    outcome: Outcome
    suites: tuple[SuiteVerdict, ...]
    against: str = "production"
    """Name of the other side: production, or the release as published while nothing serves."""
    movements: tuple[Movement, ...] = ()
    """Drift beside accuracy; each must be within the line's bounds too."""

    @property
    def passes(self) -> bool:
        """Whether a person may approve the candidate: shown no worse, or the first of its line."""
        return OUTCOMES[self.outcome].passes

    @property
    def sentence(self) -> str:
        """The verdict in one sentence, which names the suites and signals that decided it."""
        items = sum(suite.items for suite in self.suites)
        if self.outcome == "baseline":
            return f"Baseline: nothing serves this line yet; {items} items were scored for later comparison."
        if self.outcome == "non_inferior":
            return (
                f"No worse than production within every suite's margin, on {items} items in {len(self.suites)} "
                f"suite{'s' if len(self.suites) > 1 else ''}."
            )
        decisive = [f"{suite.suite}: {suite.reason}" for suite in self.suites if suite.outcome == self.outcome]
        decisive += [
            f"{movement.name}: {movement.sentence}" for movement in self.movements if movement.outcome == self.outcome
        ]
        return f"{self.outcome.capitalize()}: {' '.join(decisive)}"


def judge_suite(
    candidate: SuiteScores,
    production: SuiteScores | None,
    *,
    margin: float,
    confidence: float,
    may_differ: frozenset[str] = frozenset(),
) -> SuiteVerdict:
    """Compare two models' scores on a whole suite.

    Args:
        candidate: the candidate's scores, each from 0 to 1; items may name the cluster they belong to.
        production: production's scores of the same items by the same scorer; None while nothing serves.
        margin: the largest loss that still counts as no worse, on a scale of 1.
        confidence: one-sided, of `non_inferior`; `Levels` states what a regression must show.
        may_differ: fields of `Conditions` that a person has allowed to differ.
    """
    failed = failed_must_pass(candidate)
    common = {
        "suite": candidate.suite,
        "margin": margin,
        "confidence": confidence,
        "items": len(candidate.items),
        "candidate_mean": candidate.mean,
        "must_pass_failed": failed,
    }

    def verdict(outcome: Outcome, reason: str, **numbers: object) -> SuiteVerdict:
        return SuiteVerdict.model_validate({**common, **numbers, "outcome": outcome, "reason": reason})

    if production is None:
        if failed:
            return verdict("regression", must_pass_reason(failed))
        ahead = troubles_ahead(candidate)
        return verdict("baseline", f"{candidate.mean:.1%} right; nothing serves yet to compare with.{ahead}")
    if reason := why_incomparable(candidate, production, may_differ, whole=True):
        return invalid_verdict(candidate, production, reason, margin=margin, confidence=confidence)

    from tasks.evaluate.verdict.sequential import (  # numpy, which a reader of verdicts need not import
        Levels,
        judge_complete,
    )
    from tasks.evaluate.verdict.sequential.decide import fill_lost

    levels = Levels(margin, confidence, final_analysis=False)
    pairs = _pairs(candidate, production)
    bounds, in_favour = (judge_complete(fill_lost(pairs, favour=favour), levels) for favour in (False, True))
    estimate = candidate.mean - production.mean
    low, high = min(bounds.low, estimate), max(in_favour.high, estimate)
    production_scores = {item.id: item.score for item in production.items}
    numbers = {
        "production_mean": production.mean,
        "estimate": estimate,
        "low": low,
        "high": high,
        "gained": sum(item.score > production_scores[item.id] for item in candidate.items),
        "lost": sum(item.score < production_scores[item.id] for item in candidate.items),
        "loss_p_value": in_favour.loss_p_value,
        "note": SUSPICIOUS_GAIN if low > margin else "",
    }
    if failed:
        return verdict("regression", must_pass_reason(failed), **numbers)
    change = f"{estimate:+.1%} ({low:+.1%} to {high:+.1%}), margin {margin:.1%}"
    if high < -margin and in_favour.loss_p_value <= levels.real_error:
        return verdict("regression", f"worse by more than the margin: {change}.", **numbers)
    if low > -margin:
        return verdict("non_inferior", f"no worse: {change}.", **numbers)
    discordance = sum((item.score - production_scores[item.id]) ** 2 for item in candidate.items) / len(candidate.items)
    lacking = would_decide(len(candidate.items), margin, confidence, discordance, estimate)
    return verdict("inconclusive", f"not enough evidence: {change}. {lacking}", **numbers)


def invalid_verdict(
    candidate: SuiteScores, production: SuiteScores | None, reason: str, *, margin: float, confidence: float
) -> SuiteVerdict:
    """The verdict on scores that cannot be compared; must-pass items that failed are named all the same."""
    return SuiteVerdict(
        suite=candidate.suite,
        outcome="invalid",
        reason=reason,
        margin=margin,
        confidence=confidence,
        items=len(candidate.items),
        candidate_mean=candidate.mean,
        production_mean=production.mean if production else None,
        must_pass_failed=failed_must_pass(candidate),
    )


def failed_must_pass(candidate: SuiteScores) -> tuple[str, ...]:
    """Ids of the must-pass items with less than the full score."""
    return tuple(item.id for item in candidate.items if item.must_pass and item.score < 1)


def must_pass_reason(failed: tuple[str, ...]) -> str:
    """The reason of a regression by must-pass items."""
    return f"must-pass items failed: {', '.join(failed)}."


def judge(
    artifact_digest: str,
    production_digest: str | None,
    suites: list[SuiteVerdict],
    expected: list[str],
    against: str = "production",
    movements: tuple[Movement, ...] = (),
) -> Verdict:
    """Draw all suites together: the gravest outcome is the verdict.

    Args:
        artifact_digest: digest of the candidate.
        production_digest: digest of what the candidate was weighed against; None for a line's first release.
        suites: the suites' verdicts; after one that failed, the rest may be missing.
        expected: names of the line's suites; a candidate cannot pass unless all are there.
        against: name of the other side.
        movements: drift beside accuracy; one that is out of bounds decides as a suite does.
    """
    suites = _correct_for_many_suites(suites)
    decisive = gravest([*(suite.outcome for suite in suites), *(movement.outcome for movement in movements)])
    outcome: Outcome = decisive.name if decisive else "invalid"
    if {suite.suite for suite in suites} != set(expected) and OUTCOMES[outcome].passes:
        outcome = "invalid"
    return Verdict(
        artifact_digest=artifact_digest,
        production_digest=production_digest,
        outcome=outcome,
        suites=tuple(suites),
        against=against,
        movements=movements,
    )


def _pairs(candidate: SuiteScores, production: SuiteScores) -> Pairs:
    import numpy as np

    from tasks.evaluate.verdict.sequential import Pairs

    # An item without a cluster is a cluster of its own.
    names = [(item.id, None) if item.cluster is None else ("", item.cluster) for item in candidate.items]
    numbers: dict[tuple[str, str | None], int] = {}
    return Pairs(
        ids=tuple(item.id for item in candidate.items),
        production=np.array([_score_or_lost(item) for item in production.items], dtype=float),
        candidate=np.array([_score_or_lost(item) for item in candidate.items], dtype=float),
        clusters=np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64),
    )


def _score_or_lost(item: ItemScore) -> float:
    """An item's score; NaN where the endpoint gave an error instead of an answer, which says nothing of the model."""
    return nan if item.trouble == "error" else item.score


def _correct_for_many_suites(suites: list[SuiteVerdict]) -> list[SuiteVerdict]:
    """Make regressions inconclusive that chance explains among the number of suites; neither outcome passes.

    With twenty suites, one chance in a hundred for each adds up. Source: Holm, Scandinavian Journal of Statistics 6
    (1979) 65-70. A failed must-pass item is not a matter of chance and stays a regression.
    """
    ranked = sorted((suite.loss_p_value, at) for at, suite in enumerate(suites) if suite.loss_p_value is not None)
    corrected, highest = list(suites), 0.0
    for rank, (p_value, at) in enumerate(ranked):
        suite = suites[at]
        highest = max(highest, (len(ranked) - rank) * p_value)
        if suite.outcome == "regression" and not suite.must_pass_failed and highest > _real_error(suite):
            reason = f"a loss that one of {len(ranked)} suites may show by chance: {suite.reason}"
            corrected[at] = suite.model_copy(update={"outcome": "inconclusive", "reason": reason})
    return corrected


def _real_error(suite: SuiteVerdict) -> float:
    from tasks.evaluate.verdict.sequential import Levels

    return Levels(suite.margin, suite.confidence, final_analysis=False).real_error
