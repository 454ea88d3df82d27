"""The verdict: is the candidate no worse than production, by a margin, at a confidence, on the same items?

Each suite is one paired non-inferiority test. Four outcomes: `non_inferior` (shown no worse than the
margin), `regression` (shown worse than the margin), `inconclusive` (neither is shown), `invalid` (the
scores cannot be compared). A release passes when every suite is non-inferior and every must-pass item
passes; because *all* must hold, testing each at its own level does not inflate the error of passing
(intersection-union test, Berger 1982).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.paired import paired_bounds
from tasks.evaluate.scores import SuiteScores

Outcome = Literal["non_inferior", "regression", "inconclusive", "invalid", "baseline"]

GRAVEST_FIRST: tuple[Outcome, ...] = ("invalid", "regression", "inconclusive", "baseline", "non_inferior")


class SuiteVerdict(BaseModel):
    """One suite's outcome, with the numbers that it rests on (scores on a scale of 0 to 1)."""

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
    high: float | None = None
    gained: int = 0
    """Items that only the candidate got right."""
    lost: int = 0
    must_pass_failed: tuple[str, ...] = ()


class Verdict(BaseModel):
    """What all suites together say of one candidate."""

    model_config = ConfigDict(frozen=True)

    artifact_digest: str
    production_digest: str | None
    """What it was weighed against; None for a line's first release."""
    outcome: Outcome
    suites: tuple[SuiteVerdict, ...]
    against: str = "production"
    """What it was weighed against, in words: production, or the release as published while nothing serves."""

    @property
    def passes(self) -> bool:
        """Whether a person may approve it: shown no worse, or the first of its line."""
        return self.outcome in ("non_inferior", "baseline")

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        items = sum(suite.items for suite in self.suites)
        if self.outcome == "baseline":
            return f"Baseline: nothing serves this line yet; {items} items were scored for later comparison."
        if self.outcome == "non_inferior":
            return (
                f"No worse than production within every suite's margin, on {items} items in {len(self.suites)} suites."
            )
        blamed = [suite for suite in self.suites if suite.outcome == self.outcome]
        return f"{self.outcome.capitalize()}: " + " ".join(f"{suite.suite}: {suite.reason}" for suite in blamed)


def judge_suite(
    candidate: SuiteScores, production: SuiteScores | None, *, margin: float, confidence: float
) -> SuiteVerdict:
    """Compare two models' scores on one suite.

    Args:
        candidate: the candidate's scores, each 0 or 1.
        production: production's on the same items by the same scorer; None when nothing serves yet.
        margin: the largest loss that still counts as no worse, of a scale of 1.
        confidence: one-sided, of either decision.
    """
    failed = tuple(item.id for item in candidate.items if item.must_pass and item.score < 1)
    facts = {
        "suite": candidate.suite,
        "margin": margin,
        "confidence": confidence,
        "items": len(candidate.items),
        "candidate_mean": candidate.mean,
        "must_pass_failed": failed,
    }

    def verdict(outcome: Outcome, reason: str, **numbers: object) -> SuiteVerdict:
        return SuiteVerdict.model_validate({**facts, **numbers, "outcome": outcome, "reason": reason})

    if production is None:
        if failed:
            return verdict("regression", f"must-pass items failed: {', '.join(failed)}.")
        return verdict("baseline", f"{candidate.mean:.1%} right; nothing serves yet to compare with.")
    if problem := _incomparable(candidate, production):
        return verdict("invalid", problem, production_mean=production.mean)

    theirs = {item.id: item.score for item in production.items}
    gained = sum(item.score > theirs[item.id] for item in candidate.items)
    lost = sum(item.score < theirs[item.id] for item in candidate.items)
    low, high = paired_bounds(gained, lost, len(candidate.items), confidence)
    numbers = {
        "production_mean": production.mean,
        "estimate": candidate.mean - production.mean,
        "low": low,
        "high": high,
        "gained": gained,
        "lost": lost,
    }
    if failed:
        return verdict("regression", f"must-pass items failed: {', '.join(failed)}.", **numbers)
    change = f"{candidate.mean - production.mean:+.1%} ({low:+.1%} to {high:+.1%}), margin {margin:.1%}"
    if high < -margin:
        return verdict("regression", f"worse by more than the margin: {change}.", **numbers)
    if low > -margin:
        return verdict("non_inferior", f"no worse: {change}.", **numbers)
    return verdict("inconclusive", f"not enough evidence: {change}.", **numbers)


def judge(
    artifact_digest: str,
    production_digest: str | None,
    suites: list[SuiteVerdict],
    expected: list[str],
    against: str = "production",
) -> Verdict:
    """Draw all suites together: the gravest outcome is the verdict.

    Args:
        suites: the suites' verdicts; one that failed may have spared the rest.
        expected: names of the line's suites, all of which must be there for a pass.
        against: what the candidate was weighed against, in words.
    """
    outcomes = {suite.outcome for suite in suites}
    outcome = next((kind for kind in GRAVEST_FIRST if kind in outcomes), "invalid")
    if {suite.suite for suite in suites} != set(expected) and outcome in ("non_inferior", "baseline"):
        outcome = "invalid"
    return Verdict(
        artifact_digest=artifact_digest,
        production_digest=production_digest,
        outcome=outcome,
        suites=tuple(suites),
        against=against,
    )


def _incomparable(candidate: SuiteScores, production: SuiteScores) -> str:
    """Why two sets of scores must not be compared, or nothing."""
    if not candidate.items:
        return "no item was scored."
    if candidate.suite_digest != production.suite_digest:
        return "the suite changed between the two scorings."
    if candidate.scorer != production.scorer:
        return f"scored differently: {candidate.scorer!r} against {production.scorer!r}."
    if [item.id for item in candidate.items] != [item.id for item in production.items]:
        return "the two were not asked the same items."
    if any(item.score not in (0.0, 1.0) for item in (*candidate.items, *production.items)):
        return "scores between 0 and 1 need a test that this suite kind does not have yet."
    return ""
