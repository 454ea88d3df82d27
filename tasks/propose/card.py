"""The card: the lines of Markdown in MLflow from which a reviewer decides."""

from __future__ import annotations

from registry.models.records import CARD_LIMIT, REPORT_LINK
from tasks.propose.dossier import Dossier
from tasks.propose.templates import environment

LINK_RESERVE = 200
"""Characters by which the report's real address may be longer than its placeholder."""
MOST_ROWS = ((20, 8), (12, 4), (6, 2))
"""Suites and GPUs in the tables; the next pair is used where the card is too long for MLflow's database."""


def make_card(dossier: Dossier) -> str:
    """Render a candidate's card.

    Returns:
        Markdown of at most `CARD_LIMIT` characters once `REPORT_LINK` is replaced.
    """
    template = environment().get_template("card.md.j2")
    for most_suites, most_gpus in MOST_ROWS:
        card = template.render(d=dossier, report_link=REPORT_LINK, most_suites=most_suites, most_gpus=most_gpus)
        if len(card) <= CARD_LIMIT - LINK_RESERVE:
            break
    return card[: CARD_LIMIT - LINK_RESERVE]
