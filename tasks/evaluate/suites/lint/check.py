"""The lint: all rules on one suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import ScoreCache
from tasks.evaluate.suites.lint.balance import imbalance
from tasks.evaluate.suites.lint.duplicates import duplicates
from tasks.evaluate.suites.lint.finding import MOST_SEVERE_FIRST, Finding, Level
from tasks.evaluate.suites.lint.history import constant_items, find_cached_scores, flips_share, read_scores
from tasks.evaluate.suites.lint.power import Power, power_of
from tasks.evaluate.suites.lint.readers import read_general, read_regression
from tasks.evaluate.suites.suite import SUFFIX, data_file, digest_of, list_suites, suite_path
from weighbridge.errors import SuiteUnknown


class SuiteCheck(BaseModel):
    """The result of checking a suite."""

    model_config = ConfigDict(frozen=True)

    suite: str
    path: Path
    items: int
    """Number of usable items."""
    findings: tuple[Finding, ...]
    """Most severe first."""
    power: Power | None
    """None if no item is usable."""

    def count(self, level: str) -> int:
        """Count the findings of a level."""
        return sum(finding.level == level for finding in self.findings)


def check_suite(
    name_or_path: str,
    cache: ScoreCache,
    *,
    margin: float = 0.02,
    confidence: float = 0.95,
    scores: Sequence[Path] = (),
    root: Path | None = None,
) -> SuiteCheck:
    """Check a suite.

    Args:
        name_or_path: general/<task>, regression/<file>, either without its kind, or a path to such a file.
        cache: holds earlier scores.
        margin: largest loss that counts as non-inferior, 0 to 1.
        confidence: one-sided confidence of the verdict.
        scores: files of earlier scores; by default all cached scores of exactly this suite.
        root: the folder that holds `eval_suites/`; the installation's by default.

    Raises:
        SuiteUnknown: there is no such suite or file.
        SuiteInvalid: a file of scores contains none of this suite.
    """
    name, path = locate(name_or_path, root)
    is_general = path.suffix == SUFFIX["general"]
    items, findings = read_general(path) if is_general else read_regression(path)
    power = None
    if items:
        digest = digest_of(path, data_file(path)) if is_general else digest_of(path)
        earlier = read_scores(scores, items) if scores else find_cached_scores(cache.folder, digest)
        findings += [*duplicates(items), *imbalance(items, path.name), *constant_items(earlier, items)]
        power = power_of(len(items), margin, confidence, flips_share(earlier))
        level: Level = "note" if power.suffices else "warning"
        findings.append(Finding(level=level, code="power", where=path.name, what=power.sentence))
    findings.sort(key=lambda finding: MOST_SEVERE_FIRST.index(finding.level))
    return SuiteCheck(suite=name, path=path, items=len(items), findings=tuple(findings), power=power)


def locate(name_or_path: str, root: Path | None = None) -> tuple[str, Path]:
    """Find a suite's name and file.

    Raises:
        SuiteUnknown: there is no such suite or file, or several.
    """
    names = list_suites(root)
    matches = [name for name in names if name_or_path in (name, name.split("/")[1])]
    if len(matches) == 1:
        return matches[0], suite_path(matches[0], root)
    path = Path(name_or_path)
    if not matches and path.suffix in SUFFIX.values() and path.is_file():
        return path.stem, path.resolve()
    raise SuiteUnknown(
        f"{'Several suites are' if matches else 'No suite or file is'} called {name_or_path!r}; "
        f"known suites: {', '.join(names) or 'none yet'}.",
        "Name one of these, or the path to a .jsonl file of prompts or a .yaml task.",
    )
