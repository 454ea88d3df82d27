"""What an inconclusive suite lacks: by the planner's estimate, the items or the margin that would have decided it."""

from __future__ import annotations

USUAL_FLIPS = 0.065
"""Share of items that flip where none was measured: 804 minimal pairs, SmolLM2 bf16 against INT8 W8A8."""
SURE = 0.9
"""Probability with which the estimate is to hold."""
SMALLEST, LARGEST = 1e-4, 0.9999
BISECTIONS = 20
"""Steps of the search for a margin, to a precision of 1e-6."""


def smallest_margin(items: int, confidence: float, discordance: float, probability: float) -> float:
    """Find the smallest margin at which an equally good candidate passes with a probability; 1 if there is none.

    Args:
        items: number of items of the suite.
        confidence: one-sided, such as 0.95.
        discordance: mean squared difference of an item's two scores; of right or wrong ones, the share that flips.
        probability: of passing.
    """
    from tasks.evaluate.verdict.sequential import power  # numpy, which a reader of verdicts need not import

    low, high = SMALLEST, LARGEST
    if power(items, high, confidence, discordance) < probability:
        return 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if power(items, middle, confidence, discordance) >= probability else (middle, high)
    return high


def would_decide(items: int, margin: float, confidence: float, discordance: float, estimate: float) -> str:
    """Say how many items, or which margin, would decide a suite that is inconclusive.

    It is an estimate about another suite of this kind, and says by which assumption. A margin is never derived from the
    bounds that were measured: chosen after the fact, it would let every candidate pass.

    Args:
        items: number of items that were judged.
        margin: the line's, a share of 1.
        confidence: one-sided.
        discordance: as for `smallest_margin`, as measured on these items.
        estimate: the measured difference, candidate minus production.
    """
    from tasks.evaluate.verdict.sequential import items_needed

    if estimate <= -margin:
        return (
            "More items would hardly show it no worse: the measured loss is the margin or more. Read the answers that "
            "it lost."
        )
    measured = f"as many items differ as here ({discordance:.1%})"
    if discordance == 0:
        # That no item of a few differed does not mean that none of many will.
        discordance, measured = USUAL_FLIPS, f"{USUAL_FLIPS:.1%} of the items differ, as is usual for INT8"
    needed = items_needed(margin, confidence, discordance, SURE)
    if needed <= items:
        return (
            f"An equally good candidate would pass 9 times in 10 on these {items:,} items, so the loss may be real. "
            "Read the answers that it lost before you add items."
        )
    wider = smallest_margin(items, confidence, discordance, SURE)
    instead = f", or a margin of {wider:.1%} for these" if wider < 1 else ""
    return (
        f"By estimate {needed - items:,} items more ({needed:,} in all){instead} would decide it 9 times in 10, "
        f"if the candidate is in truth as good as production and {measured}."
    )
