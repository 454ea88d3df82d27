"""What the process that makes a reference is told, and what it tells."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.drift.held_out import HeldDocument
from tasks.serve.parity.probes import Question


class Choice(BaseModel):
    """One token that may come next."""

    model_config = ConfigDict(frozen=True)

    text: str
    log_probability: float
    """Natural logarithm."""
    hidden: bool = False
    """Whether engines leave it out of the text that they answer: a special token, or one of a template's own."""


class Probe(BaseModel):
    """One prompt with what comes next, by the reference."""

    model_config = ConfigDict(frozen=True)

    question: Question
    tokens: int
    """Of the prompt."""
    choices: tuple[Choice, ...]
    """The likeliest tokens, likeliest first."""
    prompt_log_probabilities: tuple[float, ...] = ()
    """Of the prompt's own tokens from the second on, for the kind `read`."""


class Job(BaseModel):
    """What the child has to do."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    documents: tuple[HeldDocument, ...]
    context: int
    device: Literal["cpu", "cuda"]
    dtype: str
    out: Path

    def write(self, made: Made) -> None:
        """Leave what was made for the parent."""
        self.out.write_text(made.model_dump_json())

    def read(self) -> tuple[tuple[Probe, ...], tuple[str, ...]]:
        """Probes, and what was left out."""
        made = Made.model_validate_json(self.out.read_bytes())
        return made.probes, made.left_out


class Made(BaseModel):
    """What the child made."""

    probes: tuple[Probe, ...]
    left_out: tuple[str, ...]
