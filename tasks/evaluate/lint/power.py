"""What margin a suite can decide: the arithmetic of docs/verdict.md, before anything is scored."""

from __future__ import annotations

from math import ceil, sqrt
from statistics import NormalDist

from pydantic import BaseModel, ConfigDict

USUAL_FLIPS = 0.065
"""Share of items that flip where none is known: 804 minimal pairs, SmolLM2 bf16 against INT8 W8A8 (issue 7)."""
SURE = 0.9
"""How often "nine times in ten" is."""


class Power(BaseModel):
    """What a paired comparison on all items of a suite can show, when neither model is better."""

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

    Source: docs/verdict.md. With a share d of flips and no true difference the estimate has the standard error
    sqrt(d / n), so the lower bound is above minus the margin half of the time when margin = z * sqrt(d / n). Even
    without a single flip Tango's bound is z² / (n + z²) away: below that no margin is ever decided.
    """
    share, normal = USUAL_FLIPS if flips is None else flips, NormalDist()
    z, z_sure = normal.inv_cdf(confidence), normal.inv_cdf(confidence) + normal.inv_cdf(SURE)
    floor, fewest = z * z / (items + z * z), z * z * (1 - margin) / margin
    return Power(
        items=items,
        flips=share,
        flips_measured=flips is not None,
        confidence=confidence,
        margin=margin,
        margin_half=max(floor, z * sqrt(share / items)),
        margin_sure=max(floor, z_sure * sqrt(share / items)),
        items_half=ceil(max(fewest, share * (z / margin) ** 2)),
        items_sure=ceil(max(fewest, share * (z_sure / margin) ** 2)),
    )
