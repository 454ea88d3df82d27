"""The verdict: is the candidate no worse than production, by a margin, at a confidence, on the same items?

Each suite is one paired non-inferiority test. Four outcomes: `non_inferior` (shown no worse than the
margin), `regression` (shown worse than the margin), `inconclusive` (neither is shown), `invalid` (the
scores cannot be compared). A release passes when every suite is non-inferior and every must-pass item
passes; because *all* must hold, testing each at its own level does not inflate the error of passing
(intersection-union test, Berger 1982).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import SuiteScores

if TYPE_CHECKING:
    from tasks.evaluate.verdict.sequential import Pairs

Outcome = Literal["non_inferior", "regression", "inconclusive", "invalid", "baseline"]

GRAVEST_FIRST: tuple[Outcome, ...] = ("invalid", "regression", "inconclusive", "baseline", "non_inferior")

SUSPICIOUS = (
    "Better than production by more than the margin: quantizing does not improve a model. Compare the chat templates, "
    "the prompts and the answers that changed before believing it."
)


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
    """Lower bound of the difference, one-sided at the confidence."""
    high: float | None = None
    """Upper bound, one-sided at the confidence of a regression: 0.90 where the confidence is 0.95."""
    gained: int = 0
    """Items that the candidate did better than production."""
    lost: int = 0
    loss_p_value: float | None = None
    """Of the hypothesis that the candidate lost nothing."""
    note: str = ""
    """What a reviewer should look into although the outcome stands, such as a gain too large to be true."""
    must_pass_failed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """What differs between the two models' conditions and may, such as the chat template; a sentence each."""
    noise_flips_share: float | None = None
    """Share of items that flipped when production was scored twice, 0 to 1; None when that was not measured."""
    suite_items: int | None = None
    """Items in the suite where the question was settled before its end, so that `items` are fewer; else None."""


class Movement(BaseModel):
    """What was measured beside accuracy, all signals of one kind together."""

    model_config = ConfigDict(frozen=True)

    name: str
    """distributions (on held text, against the release as published) or answers (against production)."""
    outcome: Outcome
    sentence: str


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
    movements: tuple[Movement, ...] = ()
    """How far it has moved beside accuracy; each must be within the line's bounds too."""

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
                f"No worse than production within every suite's margin, on {items} items in {len(self.suites)} "
                f"suite{'s' if len(self.suites) > 1 else ''}."
            )
        blamed = [f"{suite.suite}: {suite.reason}" for suite in self.suites if suite.outcome == self.outcome]
        blamed += [f"{one.name}: {one.sentence}" for one in self.movements if one.outcome == self.outcome]
        return f"{self.outcome.capitalize()}: {' '.join(blamed)}"


def judge_suite(
    candidate: SuiteScores, production: SuiteScores | None, *, margin: float, confidence: float
) -> SuiteVerdict:
    """Compare two models' scores on one suite.

    Args:
        candidate: the candidate's scores, each from 0 to 1; items may name the cluster they belong to.
        production: production's on the same items by the same scorer; None when nothing serves yet.
        margin: the largest loss that still counts as no worse, of a scale of 1.
        confidence: one-sided, of `non_inferior`; what a regression must show is told by `Levels`.
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

    from tasks.evaluate.verdict.sequential import (  # numpy, which a reader of verdicts need not import
        Levels,
        judge_complete,
    )

    levels = Levels(margin, confidence, final_look=False)
    bounds = judge_complete(_pairs(candidate, production), levels)
    estimate = candidate.mean - production.mean
    low, high = min(bounds.low, estimate), max(bounds.high, estimate)
    theirs = {item.id: item.score for item in production.items}
    numbers = {
        "production_mean": production.mean,
        "estimate": estimate,
        "low": low,
        "high": high,
        "gained": sum(item.score > theirs[item.id] for item in candidate.items),
        "lost": sum(item.score < theirs[item.id] for item in candidate.items),
        "loss_p_value": bounds.loss_p_value,
        "note": SUSPICIOUS if low > margin else "",
    }
    if failed:
        return verdict("regression", f"must-pass items failed: {', '.join(failed)}.", **numbers)
    change = f"{estimate:+.1%} ({low:+.1%} to {high:+.1%}), margin {margin:.1%}"
    if high < -margin and bounds.loss_p_value <= levels.real_error:
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
    movements: tuple[Movement, ...] = (),
) -> Verdict:
    """Draw all suites together: the gravest outcome is the verdict.

    Args:
        suites: the suites' verdicts; one that failed may have spared the rest.
        expected: names of the line's suites, all of which must be there for a pass.
        against: what the candidate was weighed against, in words.
        movements: what was measured beside accuracy; one that is out of bounds decides as a suite does.
    """
    suites = _reported(suites)
    outcomes = {suite.outcome for suite in suites} | {one.outcome for one in movements}
    outcome = next((kind for kind in GRAVEST_FIRST if kind in outcomes), "invalid")
    if {suite.suite for suite in suites} != set(expected) and outcome in ("non_inferior", "baseline"):
        outcome = "invalid"
    return Verdict(
        artifact_digest=artifact_digest,
        production_digest=production_digest,
        outcome=outcome,
        suites=tuple(suites),
        against=against,
        movements=movements,
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
    if not all(0 <= item.score <= 1 for item in (*candidate.items, *production.items)):
        return "a score is not between 0 and 1."
    return ""


def _pairs(candidate: SuiteScores, production: SuiteScores) -> Pairs:
    import numpy as np

    from tasks.evaluate.verdict.sequential import Pairs

    # An item without a cluster is one of its own.
    names = [(item.id, None) if item.cluster is None else ("", item.cluster) for item in candidate.items]
    numbers: dict[tuple[str, str | None], int] = {}
    return Pairs(
        ids=tuple(item.id for item in candidate.items),
        production=np.array([item.score for item in production.items], dtype=float),
        candidate=np.array([item.score for item in candidate.items], dtype=float),
        clusters=np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64),
    )


def _reported(suites: list[SuiteVerdict]) -> list[SuiteVerdict]:
    """Regressions that stand among so many suites; the others are inconclusive, which passes no more than they do.

    With twenty suites, one chance in a hundred each adds up. Source: Holm, Scandinavian Journal of Statistics 6
    (1979) 65-70. A failed must-pass item is no matter of chance and stays.
    """
    compared = sorted((one.loss_p_value, number) for number, one in enumerate(suites) if one.loss_p_value is not None)
    reported, highest = list(suites), 0.0
    for rank, (p_value, number) in enumerate(compared):
        one = suites[number]
        highest = max(highest, (len(compared) - rank) * p_value)
        if one.outcome == "regression" and not one.must_pass_failed and highest > _real_error(one):
            reason = f"a loss that one of {len(compared)} suites may show by chance: {one.reason}"
            reported[number] = one.model_copy(update={"outcome": "inconclusive", "reason": reason})
    return reported


def _real_error(suite: SuiteVerdict) -> float:
    from tasks.evaluate.verdict.sequential import Levels

    return Levels(suite.margin, suite.confidence, final_look=False).real_error
