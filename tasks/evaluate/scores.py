"""What scoring leaves behind: one score an item, and the file that keeps them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from weighbridge.settings import load_settings


class ItemScore(BaseModel):
    """How one model did on one item."""

    model_config = ConfigDict(frozen=True)

    id: str
    score: float
    """0 to 1; binary suites use the ends."""
    answer: str = ""
    """What the model said, or which choice it preferred; for the reader of the report."""
    question: str = ""
    must_pass: bool = False
    cluster: str | None = None
    """The document or conversation it belongs to, whose items may well be right or wrong together; runs of one prompt
    likewise."""
    margin: float | None = None
    """How far the right answer was ahead of the next, in nats where the harness tells; only the order counts."""


class SuiteScores(BaseModel):
    """One model's scores on a whole suite, with all that decides whether they can be compared."""

    model_config = ConfigDict(frozen=True)

    suite: str
    suite_digest: str
    artifact_digest: str
    scorer: str
    """What scored, with versions and flags that matter: equal strings are comparable."""
    items: tuple[ItemScore, ...]
    seconds: float

    @property
    def mean(self) -> float:
        """Mean score, 0 to 1."""
        return sum(item.score for item in self.items) / len(self.items) if self.items else 0.0


class ScoreBook:
    """Scores on disk, by everything that they depend on; production's are found again for every candidate.

    Args:
        folder: where the book is kept; the installation's by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or load_settings().home / "scores"

    def find(self, *, artifact_digest: str, suite_digest: str, scorer: str) -> SuiteScores | None:
        """The scores of this artifact on this suite by this scorer, or None."""
        path = self._path(artifact_digest, suite_digest, scorer)
        return SuiteScores.model_validate_json(path.read_bytes()) if path.is_file() else None

    def keep(self, scores: SuiteScores) -> None:
        """Write a suite's scores, whole or not at all."""
        path = self._path(scores.artifact_digest, scores.suite_digest, scores.scorer)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(scores.model_dump_json())
        partial.replace(path)

    def _path(self, artifact_digest: str, suite_digest: str, scorer: str) -> Path:
        key = hashlib.sha256(json.dumps([suite_digest, scorer]).encode()).hexdigest()[:24]
        return self.folder / artifact_digest[:24] / f"{key}.json"
