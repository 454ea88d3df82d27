"""Paired proportions: by how much a candidate's share of right answers differs, and how sure that is."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def tango_z(gained: int, lost: int, items: int, difference: float) -> float:
    """Score statistic for a hypothesised difference of two paired proportions.

    Args:
        gained: items that only the candidate got right.
        lost: items that only production got right.
        items: items in all, at least 1.
        difference: the hypothesised candidate minus production, -1 to 1.

    Returns:
        A standard normal deviate; large when the truth lies above `difference`.

    Source: Tango, Statistics in Medicine 17 (1998) 891-908, eq. for the restricted estimate of q21. At a
    difference of 0 it is McNemar's statistic; with no flips at all it still knows that few items prove little.
    """
    a = 2.0 * items
    b = -gained - lost + (2 * items - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    q21 = (sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = items * (2 * q21 + difference * (1 - difference))
    distance = gained - lost - items * difference
    if variance <= 1e-12:
        return 0.0 if abs(distance) < 1e-9 else float("inf") * distance
    return float(distance / sqrt(variance))


def paired_bounds(gained: int, lost: int, items: int, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of the difference, each one-sided at the stated confidence.

    Args:
        gained, lost, items: as for `tango_z`.
        confidence: of each bound by itself, such as 0.95; the two together hold 2 * confidence - 1.

    Returns:
        (low, high), candidate minus production, within -1 and 1.
    """
    from scipy.optimize import brentq  # a second of imports that a reader of verdicts need not pay

    deviate = NormalDist().inv_cdf(confidence)
    estimate = (gained - lost) / items
    edge = 1 - 1e-9

    def root(target: float, start: float, end: float) -> float:
        return float(brentq(lambda difference: tango_z(gained, lost, items, difference) - target, start, end))

    low = -1.0 if tango_z(gained, lost, items, -edge) < deviate else root(deviate, -edge, estimate)
    high = 1.0 if tango_z(gained, lost, items, edge) > -deviate else root(-deviate, estimate, edge)
    return low, high
