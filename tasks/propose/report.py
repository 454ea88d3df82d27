"""The report: one HTML file with everything behind a verdict, readable offline."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import ItemScore
from tasks.evaluate.verdict.outcomes import gravity
from tasks.evaluate.verdict.verdict import SuiteVerdict
from tasks.propose.dossier import Answers, Dossier
from tasks.propose.plots import as_svg_uri, forest_plot, memory_plot
from tasks.propose.templates import environment

MOST_FLIPS = 60
"""Flipped items shown for each suite, lost ones first; the others are in the items file."""


class Plot(BaseModel):
    """An image with its alternative text."""

    model_config = ConfigDict(frozen=True)

    uri: str
    words: str


class AnsweredItem(BaseModel):
    """One row of an items file."""

    model_config = ConfigDict(frozen=True)

    candidate: ItemScore
    production: ItemScore | None


def make_report(dossier: Dossier, now: datetime | None = None) -> str:
    """Render a candidate's report.

    Args:
        dossier: the candidate.
        now: time for the foot of the page; the present by default.
    """
    forest, memory = forest_plot(dossier), memory_plot(dossier)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            d=dossier,
            forest=Plot(uri=as_svg_uri(forest), words=forest_words(dossier)) if forest else None,
            memory=Plot(uri=as_svg_uri(memory), words="Memory on each GPU; the table below has the numbers.")
            if memory
            else None,
            flips={suite.suite: dossier.flips(suite) for suite in dossier.verdict.suites},
            wrong={suite.suite: dossier.wrong_items(suite) for suite in dossier.verdict.suites},
            gravest_first=sorted(dossier.verdict.suites, key=lambda suite: gravity(suite.outcome)),
            unquantized=_unquantized(dossier),
            most_flips=MOST_FLIPS,
            where_rest=lambda suite: f"in MLflow: items/{suite.suite.replace('/', '-')}.jsonl",
            created_at=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


def items_jsonl(dossier: Dossier, suite: SuiteVerdict) -> str:
    """Every item of a suite with both models' scores and answers, one JSON object a line."""
    candidate, production = dossier.scores(suite), dossier.production_scores(suite)
    by_id = {item.id: item for item in production.items} if production else {}
    items = [
        AnsweredItem(candidate=item, production=by_id.get(item.id)) for item in (candidate.items if candidate else ())
    ]
    return "".join(f"{item.model_dump_json()}\n" for item in items)


def forest_words(dossier: Answers) -> str:
    """Alternative text of the forest plot."""
    return "Differences to production: " + "; ".join(
        f"{suite.suite}: {suite.reason}" for suite in dossier.verdict.suites
    )


def _unquantized(dossier: Dossier) -> list[tuple[int, str]]:
    """Number of weights that were kept as published, by reason."""
    if dossier.quantization is None:
        return []
    reasons = Counter(weight.reason for weight in dossier.quantization.recipe.ignored)
    return [(count, reason) for reason, count in reasons.items()]
