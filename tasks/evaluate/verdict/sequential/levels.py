"""The error rate of each outcome, and how it is shared between the interim analyses and the final one."""

from __future__ import annotations

from dataclasses import dataclass

REAL_LOSS_ERROR = 0.01
"""A candidate that is no worse at all is called a regression at most this often."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The error rates of one test, all of them one-sided.

    `non_inferior` errs when the candidate is worse by the margin or more: at most 1 - confidence.
    `regression` must show two things. First, that the loss exceeds the margin, at twice that error: with 4,000 items, a
    loss of two margins and flips on every fifth item, the best possible test finds it 88 times in 100 at 5 % and 94 at
    10 % (normal approximation), and this outcome only separates a refused candidate from an undecided one. Second, that
    there is a loss at all, at an error of 0.01, whatever the margin and the number of items: with few items a margin
    is smaller than the noise, and the first condition alone would call equal candidates worse.

    Args:
        margin: the largest loss that still counts as no worse, above 0 and below 1.
        confidence: of `non_inferior`, at least 0.5 and below 1.
        final_analysis: whether a fixed-size test follows at the end of the suite. Its part of each error is taken from
            that of the interim analyses (the sum bounds the error of both together, Bonferroni). Passing early is the
            common case and gets most of its error; a regression that is not obvious early is found at the end.
        weighted: whether items are drawn by stratum. The draws from each stratum are then within a few of the expected
            number instead of exactly fair. A twelfth of the error pays for this (without it at most 5.2 %, measured).
    """

    margin: float
    confidence: float
    final_analysis: bool
    weighted: bool = False

    @property
    def worse_confidence(self) -> float:
        """One-sided confidence that the loss of a regression exceeds the margin: 0.90 at a confidence of 0.95."""
        return 1 - self._worse

    @property
    def passing(self) -> tuple[float, float]:
        """Error of `non_inferior`: (interim, end)."""
        interim, end = self._shared(1 - self.confidence, 0.98)
        return (interim * 11 / 12 if self.weighted else interim, end)

    @property
    def worse(self) -> tuple[float, float]:
        """Error of "worse by more than the margin": (interim, end)."""
        return self._shared(self._worse, 0.2)

    @property
    def real(self) -> tuple[float, float]:
        """Error of "there is a loss": (interim, end)."""
        return self._shared(self.real_error, 0.5)

    @property
    def real_error(self) -> float:
        """How often a candidate that is no worse at all may be called a regression."""
        return min(REAL_LOSS_ERROR, (1 - self.confidence) / 5)

    @property
    def _worse(self) -> float:
        return min(2 * (1 - self.confidence), 0.5)

    def _shared(self, error: float, early: float) -> tuple[float, float]:
        return (early * error, (1 - early) * error) if self.final_analysis else (error, 0.0)
