"""The card: the few lines of Markdown in MLflow from which a reviewer decides."""

from __future__ import annotations

from registry.models.records import CARD_LIMIT, REPORT_LINK
from tasks.propose.dossier import Dossier
from tasks.propose.templates import environment

ROOM_FOR_LINK = 200
"""Characters by which the report's real address may be longer than what stands for it."""
MOST_ROWS = ((20, 8), (12, 4), (6, 2))
"""Suites and GPUs in the tables, fewer when the card grows too long for MLflow's database."""


def make_card(dossier: Dossier) -> str:
    """Write a candidate's card.

    Returns:
        Markdown of at most `CARD_LIMIT` characters once `REPORT_LINK` is replaced.
    """
    template = environment().get_template("card.md.j2")
    for most_suites, most_gpus in MOST_ROWS:
        card = template.render(d=dossier, report_link=REPORT_LINK, most_suites=most_suites, most_gpus=most_gpus)
        if len(card) <= CARD_LIMIT - ROOM_FOR_LINK:
            break
    return card[: CARD_LIMIT - ROOM_FOR_LINK]
