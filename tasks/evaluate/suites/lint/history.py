"""Lint rule: items that earlier scores show to be useless, and the share of items that flip between models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from pydantic import ValidationError

from tasks.evaluate.scoring.scores import SuiteScores
from tasks.evaluate.suites.lint.finding import Finding, Item, list_ids
from weighbridge.errors import SuiteInvalid


def find_cached_scores(folder: Path, suite_digest: str) -> list[SuiteScores]:
    """Read all scores of exactly this suite from a score cache's folder."""
    texts = (path.read_bytes() for path in sorted(folder.rglob("*.json")))
    # Parsing the scores of every other suite would take most of the time. The cache holds other files too, such as
    # partial scores: they are skipped.
    found = [_scores(text) for text in texts if suite_digest.encode() in text]
    return [scores for scores in found if scores is not None and scores.suite_digest == suite_digest]


def _scores(text: bytes) -> SuiteScores | None:
    try:
        return SuiteScores.model_validate_json(text)
    except ValidationError:
        return None


def read_scores(paths: Sequence[Path], items: Sequence[Item]) -> list[SuiteScores]:
    """Read scores from files and keep those of the suite's items.

    Raises:
        SuiteInvalid: a file contains no scores, or scores of other items.
    """
    ids = {item.id for item in items}
    scorings = []
    for path in paths:
        if not path.is_file():
            raise SuiteInvalid(f"There is no file {path}.", "Name a file of the score cache.", where=str(path))
        scores = _scores(path.read_bytes())
        if scores is None:
            raise SuiteInvalid(
                "The file contains no scores of a suite.",
                "Name a file of the score cache, as `weighbridge release` writes them.",
                where=str(path),
            )
        scored_items = tuple(item for item in scores.items if item.id in ids)
        if not scored_items:
            raise SuiteInvalid(
                f"The scores are of {scores.suite}, and none of its items is in this suite.",
                "Name scores of this suite.",
                where=str(path),
            )
        scorings.append(scores.model_copy(update={"items": scored_items}))
    return scorings


def constant_items(scorings: Sequence[SuiteScores], items: Sequence[Item]) -> list[Finding]:
    """Report items that every model passed, or none."""
    if not scorings:
        return []
    items_by_id = {item.id: item for item in items}
    scores: dict[str, list[float]] = {}
    for scoring in scorings:
        for item in scoring.items:
            if item.id in items_by_id:
                scores.setdefault(item.id, []).append(item.score)
    always = [id for id, row in scores.items() if min(row) >= 1]
    never = [id for id, row in scores.items() if max(row) <= 0]
    where = f"{len(scorings)} scoring{'s' if len(scorings) > 1 else ''}"
    findings = []
    if blocking := [id for id in never if items_by_id[id].must_pass]:
        what = f"must_pass items that no model has passed would make every release a regression: {list_ids(blocking)}"
        findings.append(Finding(level="warning", code="must-pass-never-passes", where=where, what=what))
    if never:
        what = f"{len(never)} of {len(scores)} items never pass and cannot show a loss: {list_ids(never)}"
        findings.append(Finding(level="warning", code="never-passes", where=where, what=what))
    if always:
        what = f"{len(always)} of {len(scores)} items always pass: they can show a loss, and do not distinguish models"
        findings.append(Finding(level="note", code="always-passes", where=where, what=what))
    return findings


def flips_share(scorings: Sequence[SuiteScores]) -> float | None:
    """Return the mean share of items on which two models differ, by the same scorer; None without two models."""
    shares = []
    for first, second in combinations(scorings, 2):
        second_scores = {item.id: item.score for item in second.items}
        both = [(item.score, second_scores[item.id]) for item in first.items if item.id in second_scores]
        if both and first.scorer == second.scorer and first.artifact_digest != second.artifact_digest:
            shares.append(sum(before != after for before, after in both) / len(both))
    return sum(shares) / len(shares) if shares else None
