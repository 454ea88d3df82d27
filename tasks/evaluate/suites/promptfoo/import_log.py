"""Log of an import: what is left out, and notes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class CannotConvert(Exception):
    """Part of a configuration cannot be imported; the text says what and why."""


class Lost(BaseModel):
    """One part of a configuration that was not imported."""

    model_config = ConfigDict(frozen=True)

    test: int | None
    """Number of the test in the configuration, from 1; None if it concerns no single test."""
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{'config' if self.test is None else f'test {self.test}'}: {self.what}: {self.reason}"


class ImportLog:
    """Collects left-out parts and notes, each once."""

    def __init__(self) -> None:
        self._lost: dict[Lost, None] = {}
        self._notes: dict[str, None] = {}

    def skip(self, test: int | None, what: str, reason: str | CannotConvert) -> None:
        """Record a part that is not imported."""
        self._lost[Lost(test=test, what=what, reason=str(reason))] = None

    def note(self, text: str) -> None:
        """Record that a part is imported differently than a reader may expect."""
        self._notes[text] = None

    @property
    def lost(self) -> tuple[Lost, ...]:
        """Left-out parts, those of no single test first."""
        return tuple(sorted(self._lost, key=lambda part: part.test or 0))

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes in the order of their recording."""
        return tuple(self._notes)
