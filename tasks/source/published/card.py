"""The model card's front matter: its licence, and the models that it was made from."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError, field_validator

from weighbridge.documents import parse_yaml
from weighbridge.errors import DocumentInvalid

MAX_BYTES = 2**20
"""Of the front matter; real ones are kilobytes."""
Short = Annotated[StrictStr, Field(max_length=500)]


class Card(BaseModel):
    """The fields of a card that Weighbridge reads; a card without them has none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    license: Short | Annotated[list[Short], Field(max_length=20)] | None = None
    license_name: Short | None = None
    license_link: Short | None = None
    base_model: Annotated[list[Short], Field(max_length=100)] = []

    @field_validator("base_model", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        return [given] if isinstance(given, str) else [] if given is None else given

    @property
    def licences(self) -> tuple[str, ...]:
        """The licences that it names, each of which must be allowed."""
        given = self.license if isinstance(self.license, list) else [self.license]
        return tuple(name for name in given if name)


def read_card(content: bytes | str) -> Card:
    """Read a card's front matter; a card without any, or with one that does not parse, has no fields, as on the Hub."""
    head = content[: MAX_BYTES + 8]
    text = head.decode(errors="replace") if isinstance(head, bytes) else head
    parts = re.split(r"^---[ \t]*\r?$", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) != 3 or parts[0].strip("\ufeff \t\r\n"):
        return Card()
    return parse_fields(parts[1])


def parse_fields(front_matter: str) -> Card:
    """Read the fields between the two lines of dashes."""
    try:
        fields = parse_yaml(front_matter, "README.md", MAX_BYTES)
    except DocumentInvalid:
        return Card()
    return card_of(fields)


def card_of(fields: object) -> Card:
    """Check parsed fields; those of a wrong type are left out, so that a wrong licence is none."""
    if not isinstance(fields, dict):
        return Card()
    kept = {name: fields[name] for name in Card.model_fields if name in fields}
    try:
        return Card.model_validate(kept)
    except ValidationError as error:
        wrong = {str(problem["loc"][0]) for problem in error.errors()}
        return Card.model_validate({name: value for name, value in kept.items() if name not in wrong})
