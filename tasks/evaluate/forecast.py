"""Before anything is scored: what a verdict on each suite may take, and whether it can come about at all."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import ScoreCache
from tasks.evaluate.suites.lint.power import Power, power_of
from tasks.evaluate.suites.suite import Suite, find_suite
from weighbridge.line import Line


class Forecast(BaseModel):
    """What to expect of one suite."""

    model_config = ConfigDict(frozen=True)

    suite: str
    power: Power
    seconds: float | None
    """That the whole suite took the reference the last time; None where it was never scored so."""

    @property
    def too_small(self) -> bool:
        """Whether not even every other candidate that is no worse at all would be found so."""
        return self.power.items < self.power.items_half

    @property
    def sentence(self) -> str:
        """The same in words."""
        took = "never scored so far" if self.seconds is None else f"about {max(self.seconds / 60, 0.1):.1f} minutes"
        words = f"{self.suite}: {self.power.items} items, {took}; {self.power.sentence}"
        if self.too_small:
            return f"{words}. It is too small for its margin: expect `inconclusive`; add items or widen the margin."
        return words


def forecast(
    line: Line, reference: str | None, scorer_of: Callable[[Suite], str], cache: ScoreCache
) -> tuple[Forecast, ...]:
    """Work out what a line's suites may take.

    Args:
        line: whose suites, margins and confidence.
        reference: digest of what candidates are weighed against; None before there is anything.
        scorer_of: what will score a suite, as the book records it.
        book: where earlier scorings tell the time.
    """
    found = []
    for use in line.suites:
        suite = find_suite(use.name)
        known = reference and cache.find(artifact_digest=reference, suite_digest=suite.digest, scorer=scorer_of(suite))
        power = power_of(suite.items, use.margin, line.confidence)
        found.append(Forecast(suite=use.name, power=power, seconds=known.seconds if known else None))
    return tuple(found)
