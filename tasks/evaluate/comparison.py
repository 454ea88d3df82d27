"""A comparison of two models: its options, its result, and the listener that receives its progress."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.compare_inputs import ComparedModel
from tasks.evaluate.scoring.scores import SuiteScores
from tasks.evaluate.verdict.early_stopping import InterimEstimate
from tasks.evaluate.verdict.verdict import Verdict


class Options(BaseModel):
    """Settings of a comparison."""

    model_config = ConfigDict(frozen=True)

    margin: float = 0.02
    confidence: float = 0.95
    noise_floor: bool = False
    """Whether production is scored twice."""
    all_items: bool = False
    """Whether the candidate is scored on every item, also after the verdict is decided."""
    fresh: bool = False
    """Whether cached scores are deleted first."""
    may_differ: frozenset[str] = frozenset()
    """Fields of `Conditions` that may differ although that changes what the scores mean."""
    concurrency: int = 8
    retry_seconds: float | None = None
    """Time limit of one request with its retries; the default of `RetryBudget` if None."""
    tokenizer: Path | None = None
    """For general suites of an endpoint that does not provide its tokenizer."""


class Comparison(BaseModel):
    """The result of a comparison: the verdict and the scores behind it."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    candidate: ComparedModel
    production: ComparedModel
    candidate_scores: tuple[SuiteScores, ...]
    production_scores: tuple[SuiteScores, ...]
    options: Options


class ComparisonListener(Protocol):
    """Receives the progress of a comparison."""

    def progress(self, label: str, suite: str, done: int, total: int) -> None:
        """Items of a suite are scored."""

    def running(self, suite: str, estimate: InterimEstimate, margin: float) -> None:
        """The interim result of a suite changed."""

    def say(self, text: str) -> None:
        """A message for the reader."""
