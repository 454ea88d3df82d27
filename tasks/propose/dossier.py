"""One candidate's verdict, scores and provenance, for the card, the report and the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.verdict.verdict import SuiteVerdict, Verdict
from tasks.evaluate.weigh import Weighed
from tasks.fit.hardware.measured_memory import read_measurement
from weighbridge.line import Line
from weighbridge.units import GIB

if TYPE_CHECKING:
    from tasks.fit.rows import FitReport, FitRow
    from tasks.quantize import QuantizationRecord
    from tasks.source.changes import ChangeReport
    from tasks.source.pinned import Source


class Flip(BaseModel):
    """An item on which candidate and production differ."""

    model_config = ConfigDict(frozen=True)

    item: ItemScore
    """The candidate's item."""
    production: ItemScore

    @property
    def lost(self) -> bool:
        """Whether the candidate scored lower."""
        return self.item.score < self.production.score


class Answers:
    """A verdict with the answers behind it.

    Args:
        verdict: of all suites.
        candidate_scores: the candidate's scores.
        production_scores: production's scores; may be empty.
        confidence: one-sided, of each suite's verdict.
    """

    def __init__(
        self,
        verdict: Verdict,
        candidate_scores: tuple[SuiteScores, ...],
        production_scores: tuple[SuiteScores, ...],
        confidence: float,
    ) -> None:
        self.verdict, self.confidence = verdict, confidence
        self._candidate = {scores.suite: scores for scores in candidate_scores}
        self._production = {scores.suite: scores for scores in production_scores}

    @property
    def changed(self) -> tuple[str, ...]:
        """Permitted differences between the two models' conditions, each once."""
        return tuple(dict.fromkeys(change for suite in self.verdict.suites for change in suite.changed))

    @property
    def noise(self) -> list[SuiteVerdict]:
        """Suites on which production was scored twice."""
        return [suite for suite in self.verdict.suites if suite.noise_flips_share is not None]

    def seconds(self, suite: SuiteVerdict) -> float | None:
        """Time that scoring the candidate took; None where it was not scored."""
        scores = self.scores(suite)
        return scores.seconds if scores else None

    def scores(self, suite: SuiteVerdict) -> SuiteScores | None:
        """The candidate's scores on a suite."""
        return self._candidate.get(suite.suite)

    def production_scores(self, suite: SuiteVerdict) -> SuiteScores | None:
        """Production's scores on a suite."""
        return self._production.get(suite.suite)

    def flips(self, suite: SuiteVerdict) -> list[Flip]:
        """Items on which the two scored differently, lost ones first."""
        candidate, production = self.scores(suite), self.production_scores(suite)
        if candidate is None or production is None:
            return []
        by_id = {item.id: item for item in production.items}
        flips = [
            Flip(item=item, production=by_id[item.id])
            for item in candidate.items
            if item.id in by_id and item.score != by_id[item.id].score
        ]
        return sorted(flips, key=lambda flip: not flip.lost)

    def wrong_items(self, suite: SuiteVerdict) -> list[ItemScore]:
        """Items of a suite without a comparison that got less than the full score; failed must-pass items are apart."""
        scores = self.scores(suite)
        if scores is None or self.production_scores(suite) is not None:
            return []
        failed = set(suite.must_pass_failed)
        return [item for item in scores.items if item.score < 1 and item.id not in failed]

    @property
    def compares(self) -> bool:
        """Whether any suite has answers of both models."""
        return any(self.scores(suite) and self.production_scores(suite) for suite in self.verdict.suites)

    def failed_items(self, suite: SuiteVerdict) -> list[ItemScore]:
        """Must-pass items that failed."""
        scores = self.scores(suite)
        return [item for item in scores.items if item.id in suite.must_pass_failed] if scores else []

    def production_item(self, suite: SuiteVerdict, id: str) -> ItemScore | None:
        """Production's answer to an item."""
        scores = self.production_scores(suite)
        return next((item for item in scores.items if item.id == id), None) if scores else None


class Dossier(Answers):
    """Everything about one candidate.

    Args:
        line: the line.
        source: the release.
        weighed: the candidate.
        fit: what fits on which GPU; None without a fit report.
        quantization: how the weights were quantized; None for a release as published.
        changes: what changed against production beside the weights; None where nothing serves yet.
    """

    def __init__(
        self,
        line: Line,
        source: Source,
        weighed: Weighed,
        fit: FitReport | None,
        quantization: QuantizationRecord | None,
        changes: ChangeReport | None = None,
    ) -> None:
        super().__init__(weighed.verdict, weighed.candidate_scores, weighed.production_scores, line.confidence)
        self.line, self.source, self.weighed, self.quantization = line, source, weighed, quantization
        self.artifact, self.fit = weighed.artifact, fit
        self.fit_rows: tuple[FitRow, ...] = tuple(
            row for row in (fit.rows if fit else ()) if row.scheme == weighed.artifact.scheme
        )
        self.changes = changes
        self.signals = [signal for report in weighed.drift.values() for signal in report.signals]
        self.memory = read_measurement(weighed.artifact.digest)

    @property
    def title(self) -> str:
        """The title, for headings."""
        return f"{self.line.name}: {self.artifact.scheme} of {self.source.repo} at {self.source.commit[:12]}"

    @property
    def licence(self) -> str:
        """The licence that the model card names."""
        return self.source.licence or "not stated"

    @property
    def size_gib(self) -> float:
        """Size of all the artifact's files."""
        return self.artifact.size_bytes / GIB

    @property
    def production_short(self) -> str:
        """Short digest of the artifact that it was weighed against; empty for a line's first release."""
        return (self.verdict.production_digest or "")[:12]

    @property
    def quantized(self) -> str:
        """How the weights were quantized, with a warning about a short calibration text."""
        if self.quantization is None:
            return "Nothing: the weights are as published."
        recipe, coverage = self.quantization.recipe, self.quantization.coverage
        unit, total_bytes = recipe.counted
        tokens = self.quantization.calibration_tokens
        calibrated = f" Calibrated on {tokens:,} tokens." if tokens else ""
        warning = f" Note: {self.quantization.calibration_warning}" if self.quantization.calibration_warning else ""
        return (
            f"{coverage.found} of {coverage.planned} planned {unit} "
            f"({coverage.share_of_linear_bytes:.1%} of {total_bytes}) to {recipe.weight_bits} bits by "
            f"{recipe.method}, {recipe.granularity}, activations {recipe.activation_bits} bits; "
            f"{len(recipe.ignored)} other weights kept as published.{calibrated}{warning}"
        )

    @property
    def must_pass_failed(self) -> tuple[str, ...]:
        """Names of must-pass items that failed, over all suites."""
        return tuple(f"{suite.suite} {item}" for suite in self.verdict.suites for item in suite.must_pass_failed)
