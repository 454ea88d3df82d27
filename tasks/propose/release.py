"""The result of a release: what became of each candidate, and whether the release as a whole succeeded."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.verdict.outcomes import gravest

NEXT = {
    "regression": "Mend the cause, or name another revision or scheme to `weighbridge release {line}`.",
    "inconclusive": "Add items to the suite, or set a margin in lines/{line}.yaml that you can live with; then "
    "`weighbridge release {line}` weighs the same files again.",
    "invalid": "Mend what made the scores differ in kind, then run `weighbridge release {line}` again.",
}
"""Next step after a release without a candidate, by its gravest outcome."""


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

    @property
    def announcement(self) -> str:
        """What people are notified of: which candidates wait for approval, and how to approve one."""
        waiting = [candidate for candidate in self.candidates if candidate.version is not None]
        lines = [
            f"{self.line}: candidate {candidate.version} ({candidate.scheme}, {candidate.digest[:12]}) waits for "
            f"approval. {candidate.sentence}\nReport: {candidate.report}\n"
            f'Approve: weighbridge approve {self.line} {candidate.version} --reason "…"'
            for candidate in waiting
        ]
        if not self.recorded:
            lines = [f"{self.line}: weighed; MLflow does not answer, and the next promote records it."]
        return "\n\n".join(lines)


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
        f"Nothing was proposed and production is untouched. {NEXT[worst.name].format(line=release.line)} The report "
        f"shows the items: {release.candidates[0].report}",
        where=f"{release.line} at {release.commit[:12]}",
    )
