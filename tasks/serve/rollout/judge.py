"""A new version against production on the same stretch of traffic, decided by intervals.

All intervals assume no shape of the distributions (`intervals.py`), and take what depends on each other for fewer
requests (`strata.py`). A share is worse when it is shown to be above what the line allows (Clopper and Pearson's
interval) *and* above production's (Fisher's exact test): what ails both is not held against the new version. It is no
worse when it is shown to be within what the line allows, or to exceed production's by no more than the line's margin.
A version that has no sample of something that production has is worse in that. Unknown here: that two versions at 1
and 99 per cent of the load do not work under the same load.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.serve.rollout.intervals import Array, Count, Quantile, Ranked, highest_excess, is_above, ratio_bounds
from tasks.serve.rollout.sample import Outcome, Sample
from tasks.serve.rollout.signals import LENGTH, TIME_PER_TOKEN, CanaryOutcome, CanarySignal, unnoticed_ms
from tasks.serve.rollout.strata import Strata
from weighbridge.line import Rollout

SPENT_ON_ERRORS, SPENT_ON_SHARE, SPENT_ON_OTHER = 1 / 4, 1 / 8, 1 / 12
"""Part of an interim result's error for errors, for each of the two other shares, and for each of the six others."""

NOT_WORSE_ERROR = 0.05
"""Largest probability that a share is called no worse although it exceeds production's by more than the margin."""

SHORT_SHARE = 0.25
"""Where the log counts no tokens, an answer of less than this share of production's median bytes is empty."""

PATIENCE = 0.99
"""A client that waited longer than this quantile of production's times gave up because of the version."""

USUAL_SHARE = 0.5
"""A step waits for a value that so many of production's requests have."""

FEWEST_MARKED = 4
"""So many of production's streams must end with `[DONE]`, and most of them, for its absence to be a fault."""


def judge(
    candidate: Sample,
    production: Sample,
    allowed: Rollout,
    error: float,
    *,
    unanswered: int = 0,
    margin: float | None = None,
) -> tuple[CanarySignal, ...]:
    """Compare two versions in everything that the access log tells.

    Args:
        candidate: the new version's requests.
        production: the old version's, of the same time.
        allowed: the line's limits.
        error: largest probability that any signal is called worse wrongly.
        unanswered: requests of the new version that have waited longer than any should; they count as failed.
        margin: excess of a share over production's that is no worse; the line's `max_error_rise` by default.
    """
    return _Comparison(candidate, production, allowed, error, unanswered, margin).signals()


@dataclass(frozen=True)
class _Marked:
    """One version's requests that have a property, among those that could."""

    has: Array
    valid: Array


class _Comparison:
    def __init__(
        self,
        candidate: Sample,
        production: Sample,
        allowed: Rollout,
        error: float,
        unanswered: int,
        margin: float | None,
    ) -> None:
        self._new, self._old, self._allowed, self._error = candidate, production, allowed, error
        self._unanswered = unanswered
        self._margin = allowed.max_error_rise if margin is None else margin
        self._sorted: dict[str, tuple[Ranked, Ranked]] = {}
        self._strata = Strata(candidate, production, allowed.sticky_by)
        self._new_outcome, self._old_outcome = (np.asarray(side.outcome, int) for side in (candidate, production))

    def signals(self) -> tuple[CanarySignal, ...]:
        allowed, ratio, error = self._allowed, self._allowed.max_latency_ratio, self._error
        counted = _has(self._new.token_counts) and _has(self._old.token_counts)
        timed = _has(self._new.token_times_ms)
        return (
            self._share("errors", self._failed(), allowed.max_error_share, error * SPENT_ON_ERRORS, self._unanswered),
            self._share("client errors", self._refused(), allowed.max_error_share, error * SPENT_ON_SHARE),
            self._share("empty answers", self._empty(counted), allowed.max_empty_share, error * SPENT_ON_SHARE),
            self._ratio("first byte p50", "first_ms", 0.5, ratio, holds=True),
            self._ratio(TIME_PER_TOKEN, "token_times_ms", 0.5, ratio, holds=True),
            self._ratio("latency p50", "durations_ms", 0.5, ratio, holds=not timed),
            self._ratio("latency p95", "durations_ms", 0.95, ratio),
            self._ratio("latency p99", "durations_ms", 0.99, ratio),
            self._ratio(LENGTH, "token_counts" if counted else "byte_counts", 0.5, allowed.max_length_ratio),
        )

    def _failed(self) -> tuple[_Marked, _Marked]:
        """Requests that failed, or whose client gave up after longer than production's users wait."""
        longest_wait_ms = {
            Outcome.LEFT_WAITING: _quantile(self._old.first_ms, PATIENCE),
            Outcome.LEFT_READING: _quantile(self._old.durations_ms, PATIENCE),
        }
        # Whether a stream's end must be marked is seen at production.
        marked, unmarked = (int((self._old_outcome == kind).sum()) for kind in (Outcome.ANSWERED, Outcome.UNMARKED))
        is_fault = marked >= FEWEST_MARKED and marked > unmarked
        found = []
        for sample, outcome in ((self._new, self._new_outcome), (self._old, self._old_outcome)):
            failed = outcome == Outcome.FAILED
            if is_fault:
                failed |= outcome == Outcome.UNMARKED
            waited = np.nan_to_num(np.asarray(sample.waited_ms, float))
            for left, longest in longest_wait_ms.items():
                failed |= (outcome == left) & (waited > longest)
            found.append(_Marked(failed, np.ones(outcome.size, bool)))
        return found[0], found[1]

    def _refused(self) -> tuple[_Marked, _Marked]:
        new, old = (
            _Marked(outcome == Outcome.REFUSED, np.ones(outcome.size, bool))
            for outcome in (self._new_outcome, self._old_outcome)
        )
        return new, old

    def _empty(self, counted: bool) -> tuple[_Marked, _Marked]:
        """Count empty answers among whole ones, in both versions by one rule."""
        limit = 0.5 if counted else SHORT_SHARE * max(_quantile(self._old.byte_counts, 0.5, missing=0.0), 0.0)
        found = []
        for sample in (self._new, self._old):
            sizes = np.asarray(sample.token_counts if counted else sample.byte_counts, float)
            valid = ~np.isnan(sizes)
            found.append(_Marked(valid & (np.nan_to_num(sizes) < limit), valid))
        return found[0], found[1]

    def _share(
        self, name: str, marked: tuple[_Marked, _Marked], allowed: float, error: float, unanswered: int = 0
    ) -> CanarySignal:
        """Compare two shares."""
        new, old = self._strata.counts(marked[0].has, marked[1].has, marked[0].valid, marked[1].valid)
        new = Count(new.count + unanswered, new.total + unanswered)
        low, high, outcome = 0.0, 1.0, "inconclusive"
        if new.total:
            low, high = new.low(error), new.high(error)
            outcome = self._share_outcome(new, old, allowed, error)
        return CanarySignal(
            name=name,
            outcome=outcome,
            asks="errors",
            # To show that one per cent is not exceeded takes hundreds of requests.
            holds=False,
            candidate=new.share,
            production=old.share,
            low=low,
            high=high,
            allowed=allowed,
        )

    def _share_outcome(self, new: Count, old: Count, allowed: float, error: float) -> CanaryOutcome:
        if new.low(error) > allowed and (not old.total or is_above(new, old, error)):
            return "worse"
        if old.total and is_above(old, new, error):
            return "better"
        if new.high(error) <= allowed or highest_excess(new, old, NOT_WORSE_ERROR) <= self._margin:
            return "no_worse"
        return "inconclusive"

    def _ratio(self, name: str, column: str, part: float, allowed: float, holds: bool = False) -> CanarySignal:
        """Compare one quantile of two versions' times or lengths."""
        new_values, old_values = (np.asarray(getattr(side, column), float) for side in (self._new, self._old))
        new_valid, old_valid = ~np.isnan(new_values), ~np.isnan(old_values)
        error = self._error * SPENT_ON_OTHER
        lowest = self._allowed.min_length_ratio if name == LENGTH else None
        # A step waits for a value that most of production's requests have.
        holds = holds and bool(old_valid.any()) and (bool(new_valid.any()) or old_valid.mean() >= USUAL_SHARE)
        if self._is_missing(new_valid, old_valid, error):
            return _signal(name, "worse", None, _quantile(old_values, part), (None, None), (lowest, allowed), holds)
        strata, (new_ranked, old_ranked) = self._strata, self._ranked(column, new_values, old_values)
        marked = np.nan_to_num(old_values) > old_ranked.at(part)
        valid = new_valid, old_valid

        def estimate(in_time: bool) -> tuple[Quantile, Quantile]:
            numbers = strata.independent_values(marked, valid, in_time=in_time)
            return new_ranked.quantile(part, numbers[0], error), old_ranked.quantile(part, numbers[1], error)

        new, old = estimate(in_time=False)
        low, high = every_low, _ = ratio_bounds(new, old)
        if name != LENGTH:
            # Requests of one moment depend on each other. That may not stop a version, and need not hold it.
            low, _ = ratio_bounds(*estimate(in_time=True))
        rise = unnoticed_ms(name)
        outcome: CanaryOutcome = "inconclusive"
        if name == LENGTH:
            shortest = self._allowed.min_length_ratio
            if (low is not None and low > allowed) or (high is not None and high < shortest):
                outcome = "worse"
            elif low is not None and high is not None and low >= shortest and high <= allowed:
                outcome = "no_worse"
        elif low is not None and low > allowed and (low - 1) * (old.value or 0.0) > rise:
            outcome = "worse"
        elif every_low is not None and every_low > allowed**2 and (every_low - 1) * (old.value or 0.0) > rise:
            # Far too slow for a busy moment.
            outcome = "worse"
        elif high is not None and high < 1:
            outcome = "better"
        elif high is not None and (high <= allowed or (high - 1) * (old.value or 0.0) <= rise):
            outcome = "no_worse"
        return _signal(name, outcome, new.value, old.value, (low, high), (lowest, allowed), holds)

    def _ranked(self, column: str, new_values: Array, old_values: Array) -> tuple[Ranked, Ranked]:
        """Both versions' comparable values, sorted once for all quantiles."""
        if column not in self._sorted:
            new, old = (
                Ranked(values[used], side.weights[used])
                for values, side in ((new_values, self._strata.new), (old_values, self._strata.old))
                for used in [~np.isnan(values) & (side.weights > 0)]
            )
            self._sorted[column] = new, old
        return self._sorted[column]

    def _is_missing(self, new_valid: Array, old_valid: Array, error: float) -> bool:
        """True if the new version has no value at all, and shows by that to be unlike production."""
        if new_valid.any() or not old_valid.any() or not new_valid.size:
            return False
        everything = np.ones(new_valid.size, bool), np.ones(old_valid.size, bool)
        new, old = self._strata.counts(~new_valid, ~old_valid, *everything)
        return is_above(new, old, error)


def _signal(
    name: str,
    outcome: CanaryOutcome,
    new: float | None,
    old: float | None,
    bounds: tuple[float | None, float | None],
    allowed: tuple[float | None, float],
    holds: bool,
) -> CanarySignal:
    return CanarySignal(
        name=name,
        outcome=outcome,
        # An answer that is cut short is a loss like an error; one that is slow or long is not.
        asks="errors" if name == LENGTH and new is not None and old is not None and new < old else "speed",
        holds=holds,
        candidate=new,
        production=old,
        low=bounds[0],
        high=bounds[1],
        allowed=allowed[1],
        allowed_low=allowed[0],
    )


def _has(values: object) -> bool:
    return bool((~np.isnan(np.asarray(values, float))).any())


def _quantile(values: object, part: float, missing: float = -1.0) -> float:
    found = np.asarray(values, float)
    found = found[~np.isnan(found)]
    return float(np.quantile(found, part)) if found.size else missing
