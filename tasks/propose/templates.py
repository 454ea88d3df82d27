"""Jinja2 environment of the card and the pages, with filters for numbers and for untrusted text."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from tasks.evaluate.scoring.scores import ItemScore
from tasks.evaluate.verdict.outcomes import OUTCOMES
from weighbridge.source_urls import uri_of
from weighbridge.terminal import visible

FIT_WORDS = {"fits": "✓ fits", "tight": "~ tight", "no": "✗ does not fit"}

QUESTION_HEAD, QUESTION_TAIL, ANSWER_LIMIT = 600, 600, 1200
"""Characters shown of a long question's beginning and end (the end has the question), and of an answer."""


def share(value: float | None, signed: bool = False) -> str:
    """A share of 1 as per cent; a dash for None."""
    if value is None:
        return "–"
    return f"{value:+.1%}".replace("-", "\N{MINUS SIGN}") if signed else f"{value:.1%}"


def cell(text: object, limit: int = 600) -> str:
    """Escape text so that it can break no Markdown table, make no link or image, and add no tag to the page."""
    flat = " ".join(str(text).split())
    flat = flat if len(flat) <= limit else f"{flat[: limit - 1]}…"
    for mark, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("[", "&#91;"), ("`", "&#96;")):
        flat = flat.replace(mark, harmless)
    return flat


def elide(text: str, head: int = QUESTION_HEAD, tail: int = QUESTION_TAIL) -> str:
    """A long text without its middle."""
    if len(text) <= head + tail:
        return text
    return f"{text[:head]}\n… {len(text) - head - tail:,} characters …\n{text[-tail:]}"


def duration(seconds: float | None) -> str:
    """Seconds in a readable unit; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def badge(outcome: str) -> Markup:
    """An outcome's label in its colour."""
    return Markup('<span class="badge {}">{}</span>').format(outcome, OUTCOMES[outcome].label)


def success(item: ItemScore) -> str:
    """`right`, `wrong`, or the score of a partly right answer."""
    return {0.0: "wrong", 1.0: "right"}.get(item.score, f"{item.score:.0%} right")


def clip(text: str) -> str:
    """A long answer's beginning."""
    return text if len(text) <= ANSWER_LIMIT else f"{text[:ANSWER_LIMIT]}\n… {len(text) - ANSWER_LIMIT:,} more"


def _finalize(value: object) -> object:
    """Show characters that hide or reorder text, such as direction marks in an answer, as escapes."""
    return visible(value) if type(value) is str else value


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """The Jinja2 environment: HTML is escaped, and an unknown name is an error."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        share=share, cell=cell, elide=elide, clip=clip, duration=duration, success=success, badge=badge, uri=uri_of
    )
    templates.globals.update(outcomes=OUTCOMES, fit_words=FIT_WORDS)
    return templates
