"""What pydantic found wrong, in one sentence for a person: the field, then the fault without pydantic's prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

PREFIX = "Value error, "
"""Pydantic writes it before each message of a validator of ours."""


def field_of(problem: ErrorDetails) -> str:
    """Return the place of a fault, such as `suites.0.margin`; empty for the whole."""
    return ".".join(map(str, problem["loc"]))


def fault_of(problem: ErrorDetails) -> str:
    """Return what is wrong there, with a small first letter and no full stop."""
    message = problem["msg"].removeprefix(PREFIX).rstrip(".")
    return f"{message[:1].lower()}{message[1:]}"


def first_fault(error: ValidationError, whole: str = "") -> str:
    """Return the first fault with its place.

    Args:
        error: of pydantic.
        whole: stands where the fault has no place; by default nothing.
    """
    problem = error.errors(include_url=False)[0]
    named = field_of(problem) or whole
    return f"{named}: {fault_of(problem)}" if named else fault_of(problem)


def all_faults(error: ValidationError) -> str:
    """Return every fault with its place, parted by semicolons."""
    problems = error.errors(include_url=False)
    return "; ".join(f"{field_of(problem)}: {fault_of(problem)}".removeprefix(": ") for problem in problems)
