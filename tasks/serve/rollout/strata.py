"""What may be compared with what: production's requests weighted like the new version's, and dependence counted.

Two versions get different requests where traffic is sticky: one client's habits must not be taken for the version's.
A client or conversation that both versions saw is compared with itself. All other requests are compared with those of
about the same length of prompt. Requests of one client depend on each other, so they count as fewer than they are:
n / (1 + (m - 1) r) for clusters of m requests, r the correlation within a cluster (Kish 1965; r by analysis of
variance, as in Donner and Klar 2000).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.serve.rollout.intervals import Array, Count
from tasks.serve.rollout.sample import Sample
from weighbridge.line import StickyBy

LENGTH_FACTOR = 4
"""Prompts within this factor count as equally long."""

BLOCK_SECONDS = 10
"""Speeds within such a time depend on each other: whoever comes while an engine is busy waits."""

PERIOD_SECONDS = 60
"""Requests of a client that both versions saw depend on each other within such a period."""

FEWEST_CLUSTERS, ASSUMED_CORRELATION = 5, 0.1
"""With fewer clusters than this, their correlation is taken to be at least so much."""


@dataclass(frozen=True)
class Side:
    """One version's requests: a weight, a cluster and a stratum for each."""

    sample: Sample
    weights: Array
    clusters: Array
    strata: Array
    known: Array
    """True for requests of a client or conversation that both versions saw."""
    blocks: Array
    """Time of arrival in blocks of some seconds."""


class Strata:
    """Both versions' requests, made comparable.

    Args:
        candidate, production: the two samples.
        sticky_by: of the line: what stays with one version.
    """

    def __init__(self, candidate: Sample, production: Sample, sticky_by: StickyBy) -> None:
        self._sticky = sticky_by != "none"
        sizes = candidate.requests, production.requests
        unit = np.zeros(sum(sizes), int)
        if self._sticky:
            units = np.concatenate([_units(sample, sticky_by) for sample in (candidate, production)])
            _, unit = np.unique(units, return_inverse=True)
        prompts = np.concatenate([np.asarray(sample.prompt, float) for sample in (candidate, production)])
        lengths = np.floor(np.log(np.maximum(np.nan_to_num(prompts), 1)) / np.log(LENGTH_FACTOR)).astype(int)
        times = np.nan_to_num(np.concatenate([np.asarray(sample.at, float) for sample in (candidate, production)]))
        times -= times.min() if times.size else 0.0
        blocks = (times // BLOCK_SECONDS).astype(int)
        is_new = np.arange(sum(sizes)) < sizes[0]
        strata, known, clusters = lengths, np.zeros(sum(sizes), bool), unit
        if self._sticky:
            both = np.intersect1d(unit[is_new], unit[~is_new])
            known = np.isin(unit, both)
            strata = np.where(known, unit + 1000, lengths)
            period = (times // PERIOD_SECONDS).astype(int)
            within = (unit + 1) * (period.max(initial=0) + 1) + period + unit.max(initial=0)
            clusters = np.where(known, within, unit)
        _, strata = np.unique(strata, return_inverse=True)
        _, clusters = np.unique(clusters, return_inverse=True)
        count = strata.max() + 1 if strata.size else 1
        new, old = (np.bincount(strata[side], minlength=count) for side in (is_new, ~is_new))
        # What production never had is compared with nothing, what only production has weighs nothing.
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.where(old > 0, new / old, 0.0)
        weights = (old > 0)[strata[is_new]].astype(float), weight[strata[~is_new]]
        self.new, self.old = (
            Side(sample, weight, clusters[side], strata[side], known[side], blocks[side])
            for sample, weight, side in zip((candidate, production), weights, (is_new, ~is_new), strict=True)
        )

    def correlations(self, marked: Array, valid: Array) -> tuple[float, float]:
        """Correlation within clusters, of clients that one version saw, and of periods of those that both saw.

        Args:
            marked: production's requests with a property.
            valid: those of its requests that could have it.
        """
        if not self._sticky:
            return 0.0, 0.0
        side, found = self.old, []
        for known in (False, True):
            rows = valid & (side.known == known)
            found.append(_correlation(marked[rows].astype(float), side.strata[rows], side.clusters[rows]))
        return found[0], found[1]

    def independent(self, side: Side, valid: Array, correlations: tuple[float, float], weights: Array) -> float:
        """Number of independent requests that these are worth, for a weighted mean."""
        within = np.where(side.known[valid], correlations[1], correlations[0])
        return _independent(weights[valid], side.clusters[valid], within)

    def independent_values(self, marked: Array, valid: tuple[Array, Array], *, in_time: bool) -> tuple[float, float]:
        """Number of independent requests that each version's values are worth.

        Args:
            marked: production's requests above the quantile in question.
            valid: the new version's and production's requests that have a value.
            in_time: True for speeds, which depend on each other within a short time.
        """
        correlations = self.correlations(marked, valid[1])
        found = [
            self.independent(side, usable, correlations, side.weights)
            for side, usable in zip((self.new, self.old), valid, strict=True)
        ]
        if in_time:
            rows = valid[1]
            correlation = _correlation(marked[rows].astype(float), self.old.strata[rows], self.old.blocks[rows])
            for place, (side, usable) in enumerate(zip((self.new, self.old), valid, strict=True)):
                by_time = _independent(side.weights[usable], side.blocks[usable], correlation)
                found[place] = min(found[place], by_time)
        return found[0], found[1]

    def counts(self, new: Array, old: Array, new_valid: Array, old_valid: Array) -> tuple[Count, Count]:
        """Count marked requests of both versions as independent ones, production's weighted like the new version's."""
        correlations = self.correlations(old, old_valid)
        if self._sticky:
            correlations = (max(correlations[0], self._own(new, new_valid)), correlations[1])
        equal = np.ones(new.size)
        number = self.independent(self.new, new_valid, correlations, equal)
        share = float(new[new_valid].mean()) if new_valid.any() else 0.0
        weights = self.old.weights * old_valid
        if not weights.any():
            # Nothing comparable: production as a whole is better than nothing.
            weights = old_valid.astype(float)
        total = weights.sum()
        old_share = float((weights * old).sum() / total) if total else 0.0
        old_number = self._of_strata(self.independent(self.old, old_valid, correlations, weights), old, weights)
        return Count(share * number, number), Count(old_share * old_number, old_number)

    def _of_strata(self, number: float, marked: Array, weights: Array) -> float:
        """At most as many independent requests as the variance within strata allows.

        A client with many failures, of which production had few requests, makes the weighted share vary more than the
        weights alone tell. Each stratum's share is taken with one more success and failure (Laplace), so that none is
        without variance.
        """
        used = weights > 0
        if not used.any():
            return number
        strata, kept = self.old.strata[used], weights[used]
        counts = np.bincount(strata)
        shares = (np.bincount(strata, marked[used].astype(float)) + 1) / (counts + 2)
        parts = np.bincount(strata, kept) / kept.sum()
        variance = (parts**2 * shares * (1 - shares) / np.maximum(counts, 1)).sum()
        mean = float((parts * shares).sum())
        dependence = float(kept.sum() ** 2 / (kept**2).sum()) / number if number else 1.0
        return min(number, float(mean * (1 - mean) / (variance * dependence)))

    def _own(self, marked: Array, valid: Array) -> float:
        """Correlation within the new version's own clusters, if there are enough of them."""
        rows = valid & ~self.new.known
        if np.unique(self.new.clusters[rows]).size < FEWEST_CLUSTERS:
            return 0.0
        return _correlation(marked[rows].astype(float), self.new.strata[rows], self.new.clusters[rows])


def _units(sample: Sample, sticky_by: StickyBy) -> Array:
    """What each request's version depends on; a request without a conversation's name stands for itself."""
    if sticky_by == "key":
        return np.asarray(sample.key)
    single = [f"\n{id(sample)} {number}" for number in range(sample.requests)]
    return np.asarray([name or own for name, own in zip(sample.conversation, single, strict=True)], str)


def _independent(weights: Array, clusters: Array, correlation: Array | float) -> float:
    """Kish's number for a weighted mean: (sum w)² / (sum w² + sum over clusters of (square of sum - sum w²) r)."""
    total = weights.sum()
    if not total:
        return 0.0
    if not np.any(correlation):
        return float(total**2 / (weights**2).sum())
    sums, squares = np.bincount(clusters, weights), np.bincount(clusters, weights**2)
    within = np.broadcast_to(correlation, weights.shape)
    each = np.bincount(clusters, within) / np.maximum(np.bincount(clusters), 1)
    return float(total**2 / (squares + (sums**2 - squares) * each).sum())


def _correlation(values: Array, strata: Array, clusters: Array) -> float:
    """Correlation of values within clusters, once the means of their strata are taken off; from 0 to 1."""
    if values.size < 2:
        return ASSUMED_CORRELATION
    sums, sizes = np.bincount(strata, values), np.bincount(strata)
    rest = values - (sums / np.maximum(sizes, 1))[strata]
    size, sums = np.bincount(clusters), np.bincount(clusters, rest)
    means = sums / np.maximum(size, 1)
    count, total = int((size > 0).sum()), rest.size
    least = ASSUMED_CORRELATION if count < FEWEST_CLUSTERS else 0.0
    if count < 2 or total <= count:
        return least
    between = (size * means**2).sum() / (count - 1)
    within = ((rest - means[clusters]) ** 2).sum() / (total - count)
    usual = (total - (size**2).sum() / total) / (count - 1)
    spread = between + (usual - 1) * within
    return float(np.clip((between - within) / spread, least, 1.0)) if spread > 0 else least
