"""The account of what an import leaves behind."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class CannotCarry(Exception):
    """Something of a configuration has no counterpart here; the text says what and why."""


class Lost(BaseModel):
    """One thing that was not carried over."""

    model_config = ConfigDict(frozen=True)

    test: int | None
    """Number of the test in the configuration, from 1; None for what concerns no single test."""
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{'config' if self.test is None else f'test {self.test}'}: {self.what}: {self.reason}"


class Ledger:
    """Collects what is lost and what is worth a note, each once."""

    def __init__(self) -> None:
        self._lost: dict[Lost, None] = {}
        self._notes: dict[str, None] = {}

    def lose(self, test: int | None, what: str, reason: str | CannotCarry) -> None:
        """Something is not carried over."""
        self._lost[Lost(test=test, what=what, reason=str(reason))] = None

    def note(self, text: str) -> None:
        """Something is carried over otherwise than one might think."""
        self._notes[text] = None

    @property
    def lost(self) -> tuple[Lost, ...]:
        """All that is lost, what concerns no single test first."""
        return tuple(sorted(self._lost, key=lambda one: one.test or 0))

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes, in the order in which they came up."""
        return tuple(self._notes)
