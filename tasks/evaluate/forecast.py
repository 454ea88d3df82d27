"""Forecast of a release's suites before anything is scored: duration, and whether a verdict is possible at all."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import ScoreCache
from tasks.evaluate.suites.lint.power import Power, power_of
from tasks.evaluate.suites.suite import Suite, find_suite
from weighbridge.line import Line


class Forecast(BaseModel):
    """The forecast of one suite."""

    model_config = ConfigDict(frozen=True)

    suite: str
    power: Power
    seconds: float | None
    """Duration of the last scoring of the reference on the whole suite; None if it was never scored this way."""

    @property
    def too_small(self) -> bool:
        """Whether fewer than half of the equally good candidates would be found non-inferior."""
        return self.power.items < self.power.items_half

    @property
    def sentence(self) -> str:
        """The forecast in one line."""
        duration = "never scored so far" if self.seconds is None else f"about {max(self.seconds / 60, 0.1):.1f} minutes"
        sentence = f"{self.suite}: {self.power.items} items, {duration}; {self.power.sentence}"
        if self.too_small:
            return f"{sentence}. It is too small for its margin: expect `inconclusive`; add items or widen the margin."
        return sentence


def forecast(
    line: Line, reference: str | None, scorer_of: Callable[[Suite], str], cache: ScoreCache
) -> tuple[Forecast, ...]:
    """Forecast each suite of a line.

    Args:
        line: gives suites, margins and confidence.
        reference: digest of the artifact that candidates are compared with; None if there is none yet.
        scorer_of: returns the name of the scorer of a suite, as the score cache records it.
        cache: holds earlier scores with their durations.
    """
    forecasts = []
    for use in line.suites:
        suite = find_suite(use.name)
        scores = reference and cache.find(artifact_digest=reference, suite_digest=suite.digest, scorer=scorer_of(suite))
        power = power_of(suite.items, use.margin, line.confidence)
        forecasts.append(Forecast(suite=use.name, power=power, seconds=scores.seconds if scores else None))
    return tuple(forecasts)
