"""Input and output of the process that computes a reference."""

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
    """True if engines leave it out of the answer's text: a special token, or one of the chat template."""


class Probe(BaseModel):
    """One prompt and its likeliest next tokens, by the reference."""

    model_config = ConfigDict(frozen=True)

    question: Question
    tokens: int
    """Of the prompt."""
    choices: tuple[Choice, ...]
    """The likeliest tokens, likeliest first."""
    prompt_log_probabilities: tuple[float, ...] = ()
    """Of the prompt's own tokens from the second on, for the kind `read`."""


class Job(BaseModel):
    """Input of the process."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    documents: tuple[HeldDocument, ...]
    context: int
    device: Literal["cpu", "cuda"]
    dtype: str
    out: Path

    def write(self, result: JobResult) -> None:
        """Write the result for the parent process."""
        self.out.write_text(result.model_dump_json())

    def read(self) -> tuple[tuple[Probe, ...], tuple[str, ...]]:
        """Read the probes, and the sentences on what was left out."""
        result = JobResult.model_validate_json(self.out.read_bytes())
        return result.probes, result.left_out


class JobResult(BaseModel):
    """Output of the process."""

    probes: tuple[Probe, ...]
    left_out: tuple[str, ...]
