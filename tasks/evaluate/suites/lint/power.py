"""Statistical power of a suite: the margin that it can decide, by the verdict's own planner."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.verdict.sequential import items_needed
from tasks.evaluate.verdict.would_decide import SURE, USUAL_FLIPS, smallest_margin

EVEN = 0.5
"""The probability "half of the time"; SURE is "nine times in ten"."""


class Power(BaseModel):
    """The power of a suite to show that an equally good candidate is non-inferior."""

    model_config = ConfigDict(frozen=True)

    items: int
    flips: float
    """Share of items that exactly one of the two models passes."""
    flips_measured: bool
    """Whether the share was measured; else it is USUAL_FLIPS."""
    confidence: float
    margin: float
    margin_half: float
    """The margin at which the suite shows non-inferiority half of the time."""
    margin_sure: float
    """The same nine times in ten."""
    items_half: int
    """Number of items that show non-inferiority at `margin` half of the time."""
    items_sure: int

    @property
    def suffices(self) -> bool:
        """Whether the suite decides its margin nine times in ten."""
        return self.items >= self.items_sure

    @property
    def sentence(self) -> str:
        """The power in one line."""
        source = "as scored" if self.flips_measured else "assumed"
        return (
            f"with {self.flips:.1%} of {self.items} items flipping ({source}), a margin of {self.margin_half:.3f} is "
            f"decided half of the time, of {self.margin_sure:.3f} nine times in ten; a margin of {self.margin:g} takes "
            f"{self.items_half:,} items for the one, {self.items_sure:,} items for the other"
        )


def power_of(items: int, margin: float, confidence: float, flips: float | None = None) -> Power:
    """Compute the power of a suite.

    Args:
        items: number of items, at least 1.
        margin: largest loss that counts as non-inferior, 0 to 1.
        confidence: one-sided, such as 0.95.
        flips: share of items that flip between two models; USUAL_FLIPS if None.
    """
    share = USUAL_FLIPS if flips is None else flips
    return Power(
        items=items,
        flips=share,
        flips_measured=flips is not None,
        confidence=confidence,
        margin=margin,
        margin_half=smallest_margin(items, confidence, share, EVEN),
        margin_sure=smallest_margin(items, confidence, share, SURE),
        items_half=items_needed(margin, confidence, share, EVEN),
        items_sure=items_needed(margin, confidence, share, SURE),
    )
