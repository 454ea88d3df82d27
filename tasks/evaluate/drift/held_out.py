"""The held text: documents that neither a calibration nor a suite uses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from weighbridge.documents import read_utf8
from weighbridge.errors import DocumentInvalid, SuiteInvalid, SuiteUnknown
from weighbridge.settings import load_settings

TURN = re.compile(r"^(system|user|assistant):[ \t]*", re.MULTILINE)


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str


class HeldDocument(BaseModel):
    """A text or a conversation; the unit of the intervals."""

    model_config = ConfigDict(frozen=True)

    name: str
    """The file's name without `.txt`; the part before the first dash is the kind."""
    text: str
    turns: tuple[Turn, ...] = ()
    """A conversation's messages; empty for plain text."""

    @property
    def kind(self) -> str:
        """`english`, `code`, `chat`, …"""
        return self.name.split("-")[0]


def held_documents(root: Path | None = None) -> tuple[HeldDocument, ...]:
    """The project's held text, by name.

    Args:
        root: the folder that holds `eval_suites/`; the project's by default.

    Raises:
        SuiteUnknown: there is no held text.
        SuiteInvalid: a file is empty, or a conversation has no answer of the assistant.
    """
    folder = (root or load_settings().root) / "eval_suites" / "held"
    documents = tuple(_read(path) for path in sorted(folder.glob("*.txt")))
    if not documents:
        raise SuiteUnknown(
            "There is no held text, on which distributions are compared.",
            "Restore eval_suites/held/*.txt, or put a few texts of your own there (its README says how).",
            where=str(folder),
        )
    return documents


def text_digest(documents: Sequence[HeldDocument]) -> str:
    """SHA-256, 64 hex digits, of all names and texts."""
    listing = json.dumps([[document.name, document.text] for document in documents])
    return hashlib.sha256(listing.encode()).hexdigest()


def _read(path: Path) -> HeldDocument:
    try:
        text = read_utf8(path).strip()
    except DocumentInvalid as error:
        raise SuiteInvalid(error.what, error.next_step, where=path.name) from None
    if not text:
        raise SuiteInvalid("The held text is empty.", "Write a text there, or remove the file.", where=path.name)
    name = path.stem
    turns = _turns(text) if name.split("-")[0] == "chat" else ()
    if name.split("-")[0] == "chat" and not any(turn.role == "assistant" for turn in turns):
        raise SuiteInvalid(
            "The conversation has no turn of the assistant to compare.",
            "Begin its turns with `user:` and `assistant:` at the start of a line.",
            where=path.name,
        )
    return HeldDocument(name=name, text=text, turns=turns)


def _turns(text: str) -> tuple[Turn, ...]:
    found = list(TURN.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    return tuple(Turn(role=match[1], content=text[match.end() : end].strip()) for match, end in zip(found, ends))
