"""The result of a release: what became of each candidate, and whether the release as a whole succeeded."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.verdict.outcomes import gravest


class ProposedCandidate(BaseModel):
    """One artifact of a release, as it was proposed."""

    model_config = ConfigDict(frozen=True)

    scheme: str
    digest: str
    outcome: str
    sentence: str
    passes: bool = False
    version: int | None
    """Version of `<line>-candidates` that awaits approval; None for a failed candidate, or until MLflow has it."""
    report: str
    """Address of the report in MLflow, or its file where MLflow has no pages."""
    report_file: str
    """The same report on this machine's disk."""


class Release(BaseModel):
    """A release that has been weighed and recorded."""

    model_config = ConfigDict(frozen=True)

    line: str
    commit: str
    run_url: str
    candidates: tuple[ProposedCandidate, ...]
    recorded: bool = True
    """Whether MLflow has it; else it waits in the outbox for the line's next `promote`."""


def require_candidate(release: Release) -> Release:
    """Return a release that has at least one candidate for approval.

    Raises:
        VerdictRegression, VerdictInvalid, VerdictInconclusive: no candidate may be approved; the gravest outcome
            names the failure.
    """
    for candidate in release.candidates:
        if candidate.version is not None or (candidate.passes and not release.recorded):
            return release
    worst = gravest(candidate.outcome for candidate in release.candidates)
    assert worst is not None and worst.error is not None
    sentences = [
        f"[{candidate.scheme} {candidate.digest[:12]}] {candidate.sentence}" for candidate in release.candidates
    ]
    raise worst.error(
        " ".join(sentences),
        f"Nothing was proposed and production is untouched; the report shows the items: {release.candidates[0].report}",
        where=f"{release.line} at {release.commit[:12]}",
    )
