"""Intervals of the drift signals, with each bound one-sided at the stated confidence, over independent units.

Tokens of one text, and items of one conversation, are right or wrong together. The units are therefore texts and
clusters, never tokens; an interval over tokens would be several times too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import ceil, exp, floor, log, sqrt

from tasks.evaluate.verdict.paired import paired_bounds

TINY = 1e-6
"""Replaces an amount of 0, so that a ratio exists."""
LARGEST_EXPONENT = 50.0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with a lower and an upper bound; a bound is None where the data cannot give one."""

    mean: float
    low: float | None
    high: float | None
    units: int
    """Number of independent units."""


def mean_interval(sums: Sequence[float], sizes: Sequence[float], confidence: float) -> Interval:
    """Interval of a mean per token (or item) over independent texts (or clusters) of different length.

    Args:
        sums: the sum over the tokens of each text.
        sizes: tokens of each text, all above 0.
        confidence: one-sided, of each bound.

    The estimate is the ratio of the two totals; its variance is that of the residuals `sum - mean * size` (the
    linearised ratio estimator: Cochran, Sampling Techniques, 3rd ed. 1977, eq. 6.13). Its quantile is Student's with
    one degree of freedom less than texts. A t interval rather than a bootstrap: at sixteen texts the percentile
    bootstrap is narrower than it should be, and this needs no seed.
    """
    total = float(sum(sizes))
    mean, units = sum(sums) / total, len(sums)
    if units < 2:
        return Interval(mean, None, None, units)
    squares = sum((amount - mean * size) ** 2 for amount, size in zip(sums, sizes))
    half = _t_quantile(confidence, units - 1) * sqrt(units / (units - 1) * squares) / total
    return Interval(mean, mean - half, mean + half, units)


def positive_mean_interval(sums: Sequence[float], sizes: Sequence[float], confidence: float) -> Interval:
    """The same for amounts that are never negative and skewed to the right, such as divergences: t on the logarithm.

    The standard error goes to the logarithm of the mean by the delta method, so the lower bound stays above 0. At the
    spread of the held documents (0.3 to 0.4 of the logarithm) and sixteen of them, 6 to 8 % of upper bounds lie below
    the truth instead of 5 %, and 4 % of lower ones above; the plain t interval misses 7 to 9 % and 2 to 3 %
    (simulated, tests/evaluate/test_drift_intervals.py).
    """
    plain = mean_interval(sums, sizes, confidence)
    if plain.high is None or plain.mean <= 0:
        return plain
    factor = exp(min((plain.high - plain.mean) / plain.mean, LARGEST_EXPONENT))
    return Interval(plain.mean, plain.mean / factor, plain.mean * factor, plain.units)


def share_interval(hits: Sequence[bool], clusters: Sequence[Hashable], confidence: float) -> Interval:
    """Interval of a share of items: exact (Clopper and Pearson, Biometrika 26, 1934) at the effective number of items.

    Items of a cluster count for less than as many independent ones by the design effect (Korn and Graubard, Survey
    Methodology 24, 1998, 193-201); where nothing, or everything, hits, only clusters are counted.

    Args:
        hits: whether each item has the property.
        clusters: name of each item's cluster; different names for independent items.
        confidence: one-sided, of each bound.
    """
    from scipy.special import betaincinv

    items, share = len(hits), sum(hits) / len(hits) if hits else 0.0
    if not items:
        return Interval(0.0, None, None, 0)
    units = _effective_items([float(hit) for hit in hits], clusters)
    error, effective_hits = 1 - confidence, share * units
    low = float(betaincinv(effective_hits, units - effective_hits + 1, error)) if share > 0 else 0.0
    high = float(betaincinv(effective_hits + 1, units - effective_hits, 1 - error)) if share < 1 else 1.0
    return Interval(share, low, high, len(set(clusters)))


def rise_interval(
    production: Sequence[bool], candidate: Sequence[bool], clusters: Sequence[Hashable], confidence: float
) -> Interval:
    """Interval of a rise of a share, candidate minus production, on the same items: the verdict's paired bounds.

    Clusters shrink all counts to the effective number of items, rounded to the safe side.
    """
    items = len(production)
    if not items:
        return Interval(0.0, None, None, 0)
    gained = sum(after and not before for after, before in zip(candidate, production))
    lost = sum(before and not after for after, before in zip(candidate, production))
    differences = [float(after) - float(before) for after, before in zip(candidate, production)]
    part = _effective_items(differences, clusters) / items
    fewer = max(floor(items * part), 1)
    up, down = min(ceil(gained * part), fewer), min(ceil(lost * part), fewer)
    mean = (gained - lost) / items
    low, high = paired_bounds(up, min(down, fewer - up), fewer, confidence)
    return Interval(mean, min(low, mean), max(high, mean), len(set(clusters)))


def ratio_interval(
    production: Sequence[float], candidate: Sequence[float], clusters: Sequence[Hashable], confidence: float
) -> Interval:
    """Interval of the typical ratio candidate / production of positive amounts on the same items.

    The geometric mean: ten times as long on one item and a tenth on another is no change. A t interval of the
    logarithms over clusters.
    """
    if not production:
        return Interval(1.0, None, None, 0)
    logs = [log(max(after, TINY) / max(before, TINY)) for after, before in zip(candidate, production)]
    sums, sizes = _by_cluster(logs, clusters)
    found = mean_interval(sums, sizes, confidence)
    low, high = (None if bound is None else exp(bound) for bound in (found.low, found.high))
    return Interval(exp(found.mean), low, high, found.units)


def _effective_items(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Number of independent items with the same information as the clustered ones, from 1 to the number of items."""
    items, names = len(values), len(set(clusters))
    if names == items:
        return float(items)
    mean = sum(values) / items
    simple = sum((value - mean) ** 2 for value in values) / items
    sums, sizes = _by_cluster(values, clusters)
    if simple == 0 or names < 2:
        return float(names)
    clustered = names / (names - 1) * sum((total - mean * size) ** 2 for total, size in zip(sums, sizes)) / items
    return max(items / max(clustered / simple, 1.0), 1.0)


def _by_cluster(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[list[float], list[float]]:
    sums: dict[Hashable, float] = {}
    sizes: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters):
        sums[cluster] = sums.get(cluster, 0.0) + value
        sizes[cluster] = sizes.get(cluster, 0.0) + 1
    return list(sums.values()), list(sizes.values())


def _t_quantile(confidence: float, freedom: int) -> float:
    # From scipy.special: scipy.stats takes a second to import.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, confidence))
