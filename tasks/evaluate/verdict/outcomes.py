"""The outcomes of a verdict in one table: gravity, whether they pass, the error they raise, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from weighbridge.errors import VerdictInconclusive, VerdictInvalid, VerdictRegression, WeighbridgeError

Outcome = Literal["non_inferior", "regression", "inconclusive", "invalid", "baseline"]
"""`non_inferior`: shown no worse than the margin. `regression`: shown worse than the margin. `inconclusive`: neither is
shown. `invalid`: the scores cannot be compared. `baseline`: nothing serves yet to compare with."""


@dataclass(frozen=True, slots=True)
class OutcomeKind:
    """One row of the table."""

    name: Outcome
    passes: bool
    """Whether a person may approve a candidate with this outcome."""
    error: type[WeighbridgeError] | None
    """Raised when no candidate of a release passes; its exit status is also `weighbridge compare`'s."""
    label: str
    """For people: a sign, then the word, so that colour never is the only difference."""
    terminal_colour: str
    """A colour of rich's."""
    text_colour: str
    """On a white page, with a contrast of at least 5.9 to 1."""
    plot_colour: str
    """From Okabe and Ito's palette where possible, which is distinguishable with any colour vision."""
    plot_marker: str
    """matplotlib's; the shape says the same as the colour."""

    @property
    def sign(self) -> str:
        """The label's first character."""
        return self.label[0]


GRAVEST_FIRST = (
    OutcomeKind("invalid", False, VerdictInvalid, "! invalid", "magenta", "#555555", "#666666", "s"),
    OutcomeKind("regression", False, VerdictRegression, "✗ regression", "red", "#a33f00", "#D55E00", "X"),
    OutcomeKind("inconclusive", False, VerdictInconclusive, "? inconclusive", "yellow", "#7a5900", "#B8860B", "D"),
    OutcomeKind("baseline", True, None, "● baseline", "cyan", "#00664a", "#009E73", "o"),
    OutcomeKind("non_inferior", True, None, "✓ no worse", "green", "#00664a", "#009E73", "o"),
)
OUTCOMES: dict[str, OutcomeKind] = {kind.name: kind for kind in GRAVEST_FIRST}


def gravest(outcomes: Iterable[str]) -> OutcomeKind | None:
    """The gravest of some outcomes; None without any."""
    return min((OUTCOMES[outcome] for outcome in outcomes), key=GRAVEST_FIRST.index, default=None)


def gravity(outcome: str) -> int:
    """Sort key: the gravest outcome comes first."""
    return GRAVEST_FIRST.index(OUTCOMES[outcome])
