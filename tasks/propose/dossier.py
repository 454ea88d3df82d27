"""All that is known of one weighed candidate, in one place, for the card, the report and the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.verdict.verdict import SuiteVerdict, Verdict
from tasks.evaluate.weigh import Weighed
from tasks.fit.hardware.measured_memory import kept
from weighbridge.line import Line
from weighbridge.units import GIB

if TYPE_CHECKING:
    from tasks.fit.rows import FitReport, FitRow
    from tasks.quantize import QuantizationRecord
    from tasks.source.changes import ChangeReport
    from tasks.source.hub import Source


class Flip(BaseModel):
    """An item on which candidate and production differ."""

    model_config = ConfigDict(frozen=True)

    item: ItemScore
    """The candidate's."""
    production: ItemScore

    @property
    def lost(self) -> bool:
        """Whether it is the candidate that got it wrong."""
        return self.item.score < self.production.score


class Answers:
    """A verdict with the answers that it rests on.

    Args:
        verdict: of all suites.
        candidate_scores, production_scores: what it rests on; production's may be missing.
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
        self._ours = {scores.suite: scores for scores in candidate_scores}
        self._theirs = {scores.suite: scores for scores in production_scores}

    @property
    def changed(self) -> tuple[str, ...]:
        """What differs between the two and may, each named once."""
        return tuple(dict.fromkeys(change for suite in self.verdict.suites for change in suite.changed))

    @property
    def noise(self) -> list[SuiteVerdict]:
        """Suites on which production was scored twice."""
        return [suite for suite in self.verdict.suites if suite.noise_flips_share is not None]

    def seconds(self, suite: SuiteVerdict) -> float | None:
        """What scoring the candidate took."""
        ours = self.scores(suite)
        return ours.seconds if ours else None

    def scores(self, suite: SuiteVerdict) -> SuiteScores | None:
        """The candidate's scores that a suite's verdict rests on."""
        return self._ours.get(suite.suite)

    def production_scores(self, suite: SuiteVerdict) -> SuiteScores | None:
        """Production's on the same suite."""
        return self._theirs.get(suite.suite)

    def flips(self, suite: SuiteVerdict) -> list[Flip]:
        """Items that the two answered with different success, lost ones first."""
        ours, theirs = self.scores(suite), self.production_scores(suite)
        if ours is None or theirs is None:
            return []
        by_id = {item.id: item for item in theirs.items}
        flips = [
            Flip(item=item, production=by_id[item.id])
            for item in ours.items
            if item.id in by_id and item.score != by_id[item.id].score
        ]
        return sorted(flips, key=lambda flip: not flip.lost)

    def failed_items(self, suite: SuiteVerdict) -> list[ItemScore]:
        """Must-pass items that failed."""
        ours = self.scores(suite)
        return [item for item in ours.items if item.id in suite.must_pass_failed] if ours else []

    def production_item(self, suite: SuiteVerdict, id: str) -> ItemScore | None:
        """Production's answer to an item."""
        theirs = self.production_scores(suite)
        return next((item for item in theirs.items if item.id == id), None) if theirs else None


class Dossier(Answers):
    """One candidate's papers.

    Args:
        line: the line.
        source: the release.
        weighed: the candidate.
        fit: what fits where; None where nobody asked.
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
        self.memory = kept(weighed.artifact.digest)

    @property
    def title(self) -> str:
        """What this is about, for headings."""
        return f"{self.line.name}: {self.artifact.scheme} of {self.source.repo} at {self.source.commit[:12]}"

    @property
    def licence(self) -> str:
        """As the model card names it."""
        return self.source.licence or "not stated"

    @property
    def size_gib(self) -> float:
        """All of the artifact's files."""
        return self.artifact.size_bytes / GIB

    @property
    def production_short(self) -> str:
        """Beginning of the digest that it was weighed against; empty for a line's first."""
        return (self.verdict.production_digest or "")[:12]

    @property
    def quantized(self) -> str:
        """What was done to the weights, and what is to be known of its calibration."""
        if self.quantization is None:
            return "Nothing: the weights are as published."
        recipe, coverage = self.quantization.recipe, self.quantization.coverage
        things, bytes_of = recipe.counted
        tokens = self.quantization.calibration_tokens
        watched = f" Calibrated on {tokens:,} tokens." if tokens else ""
        warned = f" Mind: {self.quantization.calibration_warning}" if self.quantization.calibration_warning else ""
        return (
            f"{coverage.found} of {coverage.planned} planned {things} "
            f"({coverage.share_of_linear_bytes:.1%} of {bytes_of}) to {recipe.weight_bits} bits by "
            f"{recipe.method}, {recipe.granularity}, activations {recipe.activation_bits} bits; "
            f"{len(recipe.ignored)} other weights kept as published.{watched}{warned}"
        )

    @property
    def must_pass_failed(self) -> tuple[str, ...]:
        """Names of must-pass items that failed, over all suites."""
        return tuple(f"{suite.suite} {item}" for suite in self.verdict.suites for item in suite.must_pass_failed)
