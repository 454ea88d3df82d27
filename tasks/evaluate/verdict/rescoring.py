"""Production scored more than once: how much of a difference is noise, and whether its scores can be believed."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.evaluate.scoring.scores import SuiteScores
from tasks.evaluate.verdict.paired import loss_p_value

REAL_DIFFERENCE_P_VALUE = 0.01
"""Below it, two scorings of one model differ by more than noise: a two-sided sign test on the flips."""


def flips_share(first: SuiteScores, second: SuiteScores) -> float | None:
    """Share of the common items whose scores differ, 0 to 1; None without common items."""
    pairs = _common_scores(first, second)
    return sum(before != after for before, after in pairs) / len(pairs) if pairs else None


def far_from_earlier(production: SuiteScores, earlier: Sequence[SuiteScores]) -> tuple[float, str]:
    """Compare production's scores with earlier scorings of the same model, under any conditions.

    Args:
        production: the scores of today's comparison.
        earlier: other scorings of the same artifact on the same suite.

    Returns:
        The largest difference of the means that is more than noise, and a clause about it; 0 and empty without one.
    """
    largest, words = 0.0, ""
    for scores in earlier:
        pairs = _common_scores(production, scores)
        up, down = sum(now > before for now, before in pairs), sum(now < before for now, before in pairs)
        difference = sum(now - before for now, before in pairs) / len(pairs) if pairs else 0.0
        # Either direction would be a surprise, so each gets half of the error.
        p_value = min(2 * min(loss_p_value(up, down), loss_p_value(down, up)), 1.0)
        if p_value < REAL_DIFFERENCE_P_VALUE and abs(difference) > abs(largest):
            largest = difference
            words = (
                f"production scores {difference:+.1%} beside its own earlier scoring, and +{up} −{down} flips are no "
                f"noise (earlier: {scores.scorer})"
            )
    return largest, words


def _common_scores(first: SuiteScores, second: SuiteScores) -> list[tuple[float, float]]:
    second_scores = {item.id: item.score for item in second.items}
    return [(item.score, second_scores[item.id]) for item in first.items if item.id in second_scores]
