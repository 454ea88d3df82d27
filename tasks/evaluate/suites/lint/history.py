"""What earlier scorings say of the items."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from pydantic import ValidationError

from tasks.evaluate.scoring.scores import SuiteScores
from tasks.evaluate.suites.lint.finding import Finding, Item, named
from weighbridge.errors import SuiteInvalid


def cached_scorings(folder: Path, suite_digest: str) -> list[SuiteScores]:
    """All scorings of exactly this suite in a book's folder."""
    texts = (path.read_text() for path in sorted(folder.rglob("*.json")))
    # Parsing every other suite's scores would take most of the time. A book may hold more than whole scorings
    # (what a run that was cut off has so far): those are not what is looked for.
    found = [_scores(text) for text in texts if suite_digest in text]
    return [scores for scores in found if scores is not None and scores.suite_digest == suite_digest]


def _scores(text: str) -> SuiteScores | None:
    try:
        return SuiteScores.model_validate_json(text)
    except ValidationError:
        return None


def scorings_in_files(paths: Sequence[Path], items: Sequence[Item]) -> list[SuiteScores]:
    """Scorings from files that were named, cut down to the suite's items.

    Raises:
        SuiteInvalid: a file holds no scoring, or one of other items.
    """
    known = {item.id for item in items}
    scorings = []
    for path in paths:
        if not path.is_file():
            raise SuiteInvalid(f"There is no file {path}.", "Name a file of the score book.", where=str(path))
        scores = _scores(path.read_text())
        if scores is None:
            raise SuiteInvalid(
                "The file holds no scores of a suite.",
                "Name a file of the score book, as `weighbridge release` writes them.",
                where=str(path),
            )
        mine = tuple(one for one in scores.items if one.id in known)
        if not mine:
            raise SuiteInvalid(
                f"The scores are of {scores.suite}, and none of its items is in this suite.",
                "Name scores of this suite.",
                where=str(path),
            )
        scorings.append(scores.model_copy(update={"items": mine}))
    return scorings


def one_sided(scorings: Sequence[SuiteScores], items: Sequence[Item]) -> list[Finding]:
    """Items that went the same way in every scoring."""
    if not scorings:
        return []
    known = {item.id: item for item in items}
    scores: dict[str, list[float]] = {}
    for scoring in scorings:
        for one in scoring.items:
            if one.id in known:
                scores.setdefault(one.id, []).append(one.score)
    always = [id for id, row in scores.items() if min(row) >= 1]
    never = [id for id, row in scores.items() if max(row) <= 0]
    where = f"{len(scorings)} scoring{'s' if len(scorings) > 1 else ''}"
    findings = []
    if blocking := [id for id in never if known[id].must_pass]:
        what = f"must_pass items that nothing has ever passed would make every release a regression: {named(blocking)}"
        findings.append(Finding(level="warning", code="must-pass-never-passes", where=where, what=what))
    if never:
        what = f"{len(never)} of {len(scores)} items never pass and can show no loss: {named(never)}"
        findings.append(Finding(level="warning", code="never-passes", where=where, what=what))
    if always:
        what = f"{len(always)} of {len(scores)} items always pass: they can show a loss, and tell no two models apart"
        findings.append(Finding(level="note", code="always-passes", where=where, what=what))
    return findings


def share_of_flips(scorings: Sequence[SuiteScores]) -> float | None:
    """The mean share of items on which two scorings by the same scorer differ; None without two of them."""
    shares = []
    for one, other in combinations(scorings, 2):
        theirs = {item.id: item.score for item in other.items}
        both = [(item.score, theirs[item.id]) for item in one.items if item.id in theirs]
        if both and one.scorer == other.scorer and one.artifact_digest != other.artifact_digest:
            shares.append(sum(left != right for left, right in both) / len(both))
    return sum(shares) / len(shares) if shares else None
