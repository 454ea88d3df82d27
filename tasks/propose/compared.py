"""The page of a comparison: a candidate's report without a line, a release or a registry."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.evaluate.comparison import Comparison
from tasks.evaluate.scoring.scores import Conditions
from tasks.evaluate.verdict.comparable import MAY_CHANGE, MUST_AGREE
from tasks.evaluate.verdict.outcomes import gravity
from tasks.propose.dossier import Answers
from tasks.propose.plots import as_svg_uri, forest_plot
from tasks.propose.report import Plot, forest_words
from tasks.propose.templates import duration, environment

MOST_FLIPS = 300
"""Flipped items shown for each suite, lost ones first."""


class ComparedAnswers(Answers):
    """A comparison as its page shows it."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(
            comparison.verdict,
            comparison.candidate_scores,
            comparison.production_scores,
            comparison.options.confidence,
        )
        self.candidate, self.production, self.options = comparison.candidate, comparison.production, comparison.options

    @property
    def title(self) -> str:
        """The title, for the heading."""
        return f"{self.candidate.label} against {self.production.label}"

    @property
    def cost(self) -> str:
        """Items and time of both models, in words."""
        parts = []
        for side, scores in (("candidate", self._candidate.values()), ("production", self._production.values())):
            items = sum(len(suite.items) for suite in scores)
            parts.append(f"{items} items in {duration(sum(suite.seconds for suite in scores))} for {side}")
        return "; ".join(parts)

    @property
    def conditions(self) -> list[tuple[str, Conditions, Conditions]]:
        """Suites with how each side's scores came about, where both are known."""
        found = []
        for name, candidate in self._candidate.items():
            production = self._production.get(name)
            if candidate.conditions is not None and production is not None and production.conditions is not None:
                found.append((name, candidate.conditions, production.conditions))
        return found

    def fields(self, candidate: Conditions, production: Conditions) -> list[tuple[str, str, str]]:
        """Each condition by name, the candidate's and production's."""
        return [
            (
                words.removeprefix("the "),
                str(getattr(candidate, field)) or "unknown",
                str(getattr(production, field)) or "unknown",
            )
            for field, words in (MUST_AGREE | MAY_CHANGE).items()
        ]


def make_comparison_report(comparison: Comparison, now: datetime | None = None) -> str:
    """Write a comparison's page: self-contained, readable without a network and without scripts.

    Args:
        now: when it was made, for the foot of the page.
    """
    answers = ComparedAnswers(comparison)
    forest = forest_plot(answers)
    suites = comparison.verdict.suites
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            d=answers,
            forest=Plot(uri=as_svg_uri(forest), words=forest_words(answers)) if forest else None,
            flips={suite.suite: answers.flips(suite) for suite in suites},
            wrong={suite.suite: answers.wrong_items(suite) for suite in suites},
            gravest_first=sorted(suites, key=lambda suite: gravity(suite.outcome)),
            most_flips=MOST_FLIPS,
            where_rest=lambda suite: "not shown",
            created_at=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
