"""What scoring leaves behind: one score an item, and the file that keeps them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from weighbridge.files import READABLE, write_whole
from weighbridge.settings import load_settings

Trouble = Literal["", "truncated", "empty", "error"]
"""What was wrong with an answer beside being wrong: cut off, nothing at all, or no answer of the API's form."""


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
    trouble: Trouble = ""
    latency_seconds: float | None = None
    """From the request to the whole answer, among the others that were asked at the same time."""
    tokens: int | None = None
    """Of the answer, as the engine counts them."""


class Conditions(BaseModel):
    """How scores came about, field by field; an empty text stands for what nobody could tell.

    Which fields may differ between two models that are compared: `tasks.evaluate.verdict.comparable`.
    """

    model_config = ConfigDict(frozen=True)

    scorer: str
    """What asked and judged, with its version: lm-eval or this project's own chat scoring."""
    parsing: str
    """How an answer became a score: the assertions' version, or the harness's metric."""
    engine: str
    """What ran the model, with its version."""
    flags: str = ""
    """What the engine was told, and on which device."""
    batch: str = ""
    """How many items ran at once; changes no score but by the rounding of sums."""
    sampling: str = "temperature 0"
    few_shot: int = 0
    chat_template: str = ""
    """16 hex digits of what makes a chat one text."""
    tokenizer: str = ""
    """16 hex digits of what makes the text tokens."""
    generation_config: str = ""
    """16 hex digits of the sampling defaults that come with the model."""
    quantization: str = ""
    """What config.json says of it; `none` for weights as published."""


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
    conditions: Conditions | None = None
    """None in books of earlier versions."""
    suite_items: int | None = None
    """Items of the suite where scoring stopped before its end, for the question was settled; else None."""

    @property
    def mean(self) -> float:
        """Mean score, 0 to 1."""
        return sum(item.score for item in self.items) / len(self.items) if self.items else 0.0


class ScoreCache:
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
        write_whole(path, scores.model_dump_json(), READABLE)

    def others(self, *, artifact_digest: str, suite_digest: str, scorer: str) -> list[SuiteScores]:
        """The same artifact's scores on the same suite by any other scorer or engine, in no particular order."""
        here = self._path(artifact_digest, suite_digest, scorer)
        texts = [path.read_text() for path in sorted(here.parent.glob("*.json")) if path != here]
        # Parsing every other suite's scores would take most of the time.
        found = [SuiteScores.model_validate_json(text) for text in texts if suite_digest in text]
        return [scores for scores in found if scores.suite_digest == suite_digest]

    def partial_scores_path(self, *, artifact_digest: str, suite_digest: str, scorer: str) -> Path:
        """Where the items of a scoring that has not come to its end are kept meanwhile."""
        return self._path(artifact_digest, suite_digest, scorer).with_suffix(".jsonl")

    def forget(self, *, artifact_digest: str, suite_digest: str, scorer: str) -> None:
        """Drop a scoring, finished or not, so that it is done again."""
        path = self._path(artifact_digest, suite_digest, scorer)
        for one in (path, path.with_suffix(".jsonl")):
            one.unlink(missing_ok=True)

    def _path(self, artifact_digest: str, suite_digest: str, scorer: str) -> Path:
        key = hashlib.sha256(json.dumps([suite_digest, scorer]).encode()).hexdigest()[:24]
        return self.folder / artifact_digest[:24] / f"{key}.json"
