"""What the models of published files have in common: strict types, bounds, and one sentence for a wrong field."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from weighbridge.documents import parse_json
from weighbridge.errors import DocumentInvalid, SourceRefused
from weighbridge.validation import fault_of

Model = TypeVar("Model", bound=BaseModel)

MAX_LAYERS = 4096
"""Layers of one stack; the deepest known models have 200. Planners and loaders loop over them."""
MAX_WIDTH = 2**24
"""Widths, vocabularies, heads, experts; the largest known vocabulary has 262,208 entries, the widest layer 200,000."""
MAX_POSITIONS = 2**40
"""Tokens of context; configs with 10 million positions exist, and some write 10^9 for "no limit"."""
MAX_INTEGER = 2**63 - 1
"""Any other integer of config.json; larger ones do not fit the types of loaders."""
MAX_TEXT = 2**20
SHOWN_CHARACTERS = 60

Size = Annotated[StrictInt, Field(ge=0, le=MAX_WIDTH)]
Layers = Annotated[StrictInt, Field(ge=0, le=MAX_LAYERS)]
Positions = Annotated[StrictInt, Field(ge=-1, le=MAX_POSITIONS)]
Number = Annotated[StrictInt | StrictFloat, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
Switch = StrictBool | None
Name = Annotated[StrictStr, Field(max_length=200)]
Text = Annotated[StrictStr, Field(max_length=MAX_TEXT)]
Id = Annotated[StrictInt, Field(ge=-1, le=MAX_WIDTH)]


class Published(BaseModel):
    """A published file: known fields are checked, unknown ones stay."""

    model_config = ConfigDict(extra="allow", frozen=True)


def read_object(content: bytes, file: str, max_bytes: int, model: type[BaseModel]) -> dict[str, Any]:
    """Parse a JSON object and check it.

    Raises:
        SourceRefused: It is no JSON object, or a field has a wrong type or an impossible value.
    """
    try:
        found = parse_json(content, file, max_bytes)
    except DocumentInvalid as error:
        raise refused(file, f"{error.what.removesuffix('.').replace('The file', 'it', 1)}{_place(error)}") from None
    if not isinstance(found, dict):
        raise refused(file, "it is not a JSON object")
    check(model, found, file)
    return found


def check(model: type[Model], found: Any, file: str) -> Model:
    """Check a parsed file.

    Raises:
        SourceRefused: A field has a wrong type or an impossible value; file, field and value are named.
    """
    try:
        return model.model_validate(found)
    except ValidationError as error:
        # Of a union, pydantic reports every member; the first error names the field all the same.
        first = error.errors(include_url=False)[0]
        path = [str(part) for part in first["loc"] if not (isinstance(part, str) and _is_type(part))]
        raise refused(file, f"`{'.'.join(path)[:120]}` is {shown(first['input'])}: {fault_of(first)}") from None


def refused(file: str, why: str) -> SourceRefused:
    """Return the error for a published file that cannot be used."""
    return SourceRefused(f"{file}: {why}.", "Choose another release, or tell its publisher.", where=file)


def shown(value: Any) -> str:
    """Return a value for a message, shortened; a huge integer is not written out."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**18:
        return f"an integer of {int(math.log10(abs(value))) + 1} digits"
    text = repr(value) if not isinstance(value, (dict, list)) else f"{type(value).__name__} of {len(value)}"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _is_type(part: str) -> bool:
    """Whether a part of a location is pydantic's name for a member of a union."""
    return part in ("int", "float", "str", "bool") or part[:1].isupper() or "[" in part or "-" in part


def _place(error: DocumentInvalid) -> str:
    return f" (line {error.line}, column {error.column})" if error.line else ""
