"""What margin a suite can decide, by the verdict's own planner, before anything is scored."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.verdict.sequential import items_needed, power

USUAL_FLIPS = 0.065
"""Share of items that flip where none is known: 804 minimal pairs, SmolLM2 bf16 against INT8 W8A8 (issue 7)."""
EVEN, SURE = 0.5, 0.9
"""How often "half of the time" and "nine times in ten" are."""
SMALLEST, LARGEST = 1e-4, 0.9999
BISECTIONS = 20
"""Of the range of margins: to 1e-6."""


class Power(BaseModel):
    """What a verdict on a suite can show of a candidate that is no worse at all."""

    model_config = ConfigDict(frozen=True)

    items: int
    flips: float
    """Share of items that exactly one of two models gets right."""
    flips_measured: bool
    """Whether that share comes from scores, or is the usual one."""
    confidence: float
    margin: float
    margin_half: float
    """The margin at which the suite shows "no worse" half of the time."""
    margin_sure: float
    """The same nine times in ten."""
    items_half: int
    """How many items `margin` takes to be shown half of the time."""
    items_sure: int

    @property
    def suffices(self) -> bool:
        """Whether the suite decides the margin nine times in ten."""
        return self.items >= self.items_sure

    @property
    def sentence(self) -> str:
        """The same in words."""
        source = "as scored" if self.flips_measured else "assumed"
        return (
            f"with {self.flips:.1%} of {self.items} items flipping ({source}), the earliest margin that is decided is "
            f"{self.margin_half:.3f} (half of the time), or {self.margin_sure:.3f} nine times in ten; a margin of "
            f"{self.margin:g} takes {self.items_half:,} or {self.items_sure:,} items"
        )


def power_of(items: int, margin: float, confidence: float, flips: float | None = None) -> Power:
    """Work out what a suite can decide.

    Args:
        items: how many it has, at least 1.
        margin: the largest loss that still counts as no worse, of a scale of 1.
        confidence: one-sided, such as 0.95.
        flips: share of items that flip between two models; USUAL_FLIPS where None.
    """
    share = USUAL_FLIPS if flips is None else flips
    return Power(
        items=items,
        flips=share,
        flips_measured=flips is not None,
        confidence=confidence,
        margin=margin,
        margin_half=_earliest(items, confidence, share, EVEN),
        margin_sure=_earliest(items, confidence, share, SURE),
        items_half=items_needed(margin, confidence, share, EVEN),
        items_sure=items_needed(margin, confidence, share, SURE),
    )


def _earliest(items: int, confidence: float, flips: float, wanted: float) -> float:
    """The smallest margin that is shown that often; 1 where none is."""
    low, high = SMALLEST, LARGEST
    if power(items, high, confidence, flips) < wanted:
        return 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if power(items, middle, confidence, flips) >= wanted else (middle, high)
    return high
