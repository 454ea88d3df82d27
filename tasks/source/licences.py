"""A release's licence: what its card at the pinned commit says, and whether the Hub says the same.

Every licence of a card must be allowed. `license: other` names terms of the publisher's own: their `license_name` may
be allowed by that name, but it may not be the name of a known licence, which everybody would take for that licence.
Licences of base models are not looked up; the card's `base_model` names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tasks.source.published.card import Card, card_of

OTHER = "other"
AND = " and "
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+_-]*")
FILLERS = {"the", "license", "licence", "version"}
# Names that the Hub knows beside SPDX's (huggingface.co/docs/hub/repositories-licenses, October 2026).
OF_THE_HUB = {
    "apple-amlr", "apple-ascl", "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "c-uda", "cc",
    "creativeml-openrail-m", "deepfloyd-if-license", "etalab-2.0", "fair-noncommercial-research-license", "gemma",
    "gfdl", "gpl", "grok2-community", "h-research", "intel-research", "lgpl", "lgpl-lr", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "open-mdw", "odbl", "openrail", "openrail++", "pddl", "unknown",
}  # fmt: skip


def is_known(name: str) -> bool:
    """Whether a name is one of SPDX's or of the Hub's licences, in any writing."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    words = [word for word in re.split(r"[\s,_-]+", name.strip().casefold()) if word and word not in FILLERS]
    plain = "-".join(words)
    if plain in OF_THE_HUB or plain.replace("-", "") in OF_THE_HUB:
        return True
    try:
        canonicalize_license_expression(plain)
    except (InvalidLicenseExpression, ValueError, RecursionError, MemoryError, SyntaxError):
        return False
    return True


def known_licences() -> set[str]:
    """Names of the licences that SPDX and the Hub know."""
    from packaging.licenses._spdx import LICENSES

    return {licence["id"] for licence in LICENSES.values()} | OF_THE_HUB


def licence_of(card: Card) -> str | None:
    """The card's licences, joined by ` and `; None without one. Of `other`, its name, if that is no known licence's."""
    names = [_own_name(card) or name if name.casefold() == OTHER else name for name in card.licences]
    return AND.join(names) or None


def licence_flaws(card: Card, listed: Mapping[str, object] | None, tag: str | None) -> Iterator[str]:
    """What contradicts the card's licence, a phrase each.

    Args:
        card: Of the file at the commit.
        listed: The card's fields as the Hub reads them.
        tag: The licence by which the Hub lists the repository.
    """
    others = [name for name in card.licences if name.casefold() == OTHER]
    if others and card.license_name and not _own_name(card):
        yield f"its card says licence `other` and calls it {card.license_name!r}, another licence's name or none"
    if card.licences and not others and card.license_name and not _same(card.license_name, card.licences):
        yield f"its card names two licences, {AND.join(card.licences)!r} and {card.license_name!r}"
    if any(not NAME.fullmatch(name) for name in card.licences):
        yield f"its card's licence {AND.join(card.licences)[:80]!r} has characters that no licence's name has"
    of_hub = card_of(listed).licences or ((tag,) if tag else ())
    if listed and listed.get("license") and not of_hub:
        yield "the Hub lists a licence that is no text"
    if of_hub and not _equal(of_hub, card.licences):
        yield f"the Hub lists licence {AND.join(of_hub)!r} and its card says {AND.join(card.licences) or 'none'!r}"


def _own_name(card: Card) -> str | None:
    name = card.license_name
    # Two names joined would be read as two licences.
    return name if name and AND not in name and NAME.fullmatch(name) and not is_known(name) else None


def _same(name: str, licences: tuple[str, ...]) -> bool:
    return len(licences) == 1 and re.sub(r"\W", "", name.casefold()) == re.sub(r"\W", "", licences[0].casefold())


def _equal(left: tuple[str, ...], right: tuple[str, ...]) -> bool:
    return {name.casefold() for name in left} == {name.casefold() for name in right}
