"""The result of scoring: one score per item, and the cache on disk that keeps them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from weighbridge.files import READABLE, write_whole
from weighbridge.settings import Settings

Trouble = Literal["", "truncated", "empty", "error", "unfinished thought", "unknown end"]
"""A defect of an answer other than being wrong: cut off, empty, not of the API's form, ended inside the thought before
it, or without a word whether it ended."""


class ItemScore(BaseModel):
    """The score of one model on one item."""

    model_config = ConfigDict(frozen=True)

    id: str
    score: float
    """0 to 1; binary suites use 0 and 1 only."""
    answer: str = ""
    """The model's text, or the choice it preferred; shown in the report."""
    question: str = ""
    must_pass: bool = False
    cluster: str | None = None
    """Items of one document, conversation or prompt: their answers may be right or wrong together."""
    margin: float | None = None
    """Log-likelihood of the right answer minus that of the next best, nats; only the order of items is used."""
    chance: float | None = None
    """Score of a model without any information, 0 to 1: one of the options by lot, or a greeting for an answer."""
    trouble: Trouble = ""
    latency_seconds: float | None = None
    """From the request to the end of the answer, among the requests sent at the same time."""
    tokens: int | None = None
    """Tokens of the answer and the thought before it, as the engine counts them."""
    thinks: bool = False
    """Whether the model thought before its answer."""
    thought_tokens: int | None = None
    """Tokens of that thought; None where the engine counts none."""


class Conditions(BaseModel):
    """The conditions of a scoring, field by field; an empty text means unknown.

    Which fields may differ between two models that are compared: `tasks.evaluate.verdict.comparable`.
    """

    model_config = ConfigDict(frozen=True)

    scorer: str
    """Program and version: lm-eval, or this project's chat scoring."""
    parsing: str
    """Rule that turns an answer into a score: the assertions' version, or lm-eval's metric."""
    engine: str
    """Program that ran the model, with its version."""
    flags: str = ""
    """The engine's flags and device."""
    batch: str = ""
    """Items per batch; changes scores only by the rounding of sums."""
    sampling: str = "temperature 0"
    few_shot: int = 0
    chat_template: str = ""
    """16 hex digits of SHA-256 over the chat template."""
    tokenizer: str = ""
    """16 hex digits of SHA-256 over the tokenizer's files."""
    generation_config: str = ""
    """16 hex digits of SHA-256 over the model's sampling defaults."""
    quantization: str = ""
    """Method and bits from config.json; `none` for unquantized weights."""
    thoughts: str = ""
    """Markers of the model's thoughts, as `model_thoughts` reads them from template and tokenizer."""


class SuiteScores(BaseModel):
    """The scores of one model on a whole suite, with everything that decides whether they can be compared."""

    model_config = ConfigDict(frozen=True)

    suite: str
    suite_digest: str
    artifact_digest: str
    scorer: str
    """Name of the scorer with its versions and flags: scores with equal names are comparable."""
    items: tuple[ItemScore, ...]
    seconds: float
    conditions: Conditions | None = None
    """None in caches of earlier versions."""
    suite_items: int | None = None
    """Number of items of the suite if scoring stopped early because the verdict was decided; else None."""

    @property
    def mean(self) -> float:
        """Mean score, 0 to 1."""
        return sum(item.score for item in self.items) / len(self.items) if self.items else 0.0


class ScoreCache:
    """Scores on disk, found by everything that they depend on: production's are reused for every candidate.

    Args:
        folder: where the scores lie; one folder per artifact below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Open the score cache of an installation."""
        return cls(settings.home / "scores")

    def find(self, *, artifact_digest: str, suite_digest: str, scorer: str) -> SuiteScores | None:
        """Return the scores of an artifact on a suite by a scorer, or None if they are not cached."""
        return _read(self._path(artifact_digest, suite_digest, scorer))

    def keep(self, scores: SuiteScores) -> None:
        """Write the scores of a suite atomically."""
        path = self._path(scores.artifact_digest, scores.suite_digest, scores.scorer)
        write_whole(path, scores.model_dump_json(), READABLE)

    def by_other_scorers(self, *, artifact_digest: str, suite_digest: str, scorer: str) -> list[SuiteScores]:
        """Return the scores of an artifact on a suite by all scorers but this one, in no particular order."""
        own_path = self._path(artifact_digest, suite_digest, scorer)
        others = [path for path in sorted(own_path.parent.glob("*.json")) if path != own_path]
        found = [_read(path, mentioning=suite_digest) for path in others]
        return [scores for scores in found if scores and scores.suite_digest == suite_digest]

    def partial_scores_path(self, *, artifact_digest: str, suite_digest: str, scorer: str) -> Path:
        """Path of the scores of an unfinished suite; see `partial_scores`."""
        return self._path(artifact_digest, suite_digest, scorer).with_suffix(".jsonl")

    def forget(self, *, artifact_digest: str, suite_digest: str, scorer: str) -> None:
        """Delete the scores of a suite, finished or not, so that it is scored again."""
        finished = self._path(artifact_digest, suite_digest, scorer)
        for path in (finished, finished.with_suffix(".jsonl")):
            path.unlink(missing_ok=True)

    def _path(self, artifact_digest: str, suite_digest: str, scorer: str) -> Path:
        key = hashlib.sha256(json.dumps([suite_digest, scorer]).encode()).hexdigest()[:24]
        return self.folder / artifact_digest[:24] / f"{key}.json"


def _read(path: Path, mentioning: str = "") -> SuiteScores | None:
    """Read scores; None if there are none. Damaged ones count as none: the suite is scored again."""
    try:
        content = path.read_bytes()
        # Parsing the scores of every other suite would take most of the time.
        return SuiteScores.model_validate_json(content) if mentioning.encode() in content else None
    except (FileNotFoundError, ValidationError):
        return None
