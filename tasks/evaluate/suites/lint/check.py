"""All checks of one suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.scores import ScoreCache
from tasks.evaluate.suites.lint.alike import duplicates
from tasks.evaluate.suites.lint.balance import imbalance
from tasks.evaluate.suites.lint.finding import GRAVEST_FIRST, Finding, Level
from tasks.evaluate.suites.lint.history import cached_scorings, one_sided, scorings_in_files, share_of_flips
from tasks.evaluate.suites.lint.power import Power, power_of
from tasks.evaluate.suites.lint.readers import read_general, read_regression
from tasks.evaluate.suites.suite import SUFFIX, data_file, digest_of, list_suites, suite_path
from weighbridge.errors import SuiteUnknown
from weighbridge.settings import load_settings


class SuiteCheck(BaseModel):
    """What there is to say of a suite."""

    model_config = ConfigDict(frozen=True)

    suite: str
    path: Path
    items: int
    """How many can be used."""
    findings: tuple[Finding, ...]
    """Gravest first."""
    power: Power | None
    """None where no item can be used."""

    def count(self, level: str) -> int:
        """How many findings of a level there are."""
        return sum(finding.level == level for finding in self.findings)


def check_suite(
    named: str,
    *,
    margin: float = 0.02,
    confidence: float = 0.95,
    scores: Sequence[Path] = (),
    root: Path | None = None,
    cache: ScoreCache | None = None,
) -> SuiteCheck:
    """Check a suite.

    Args:
        named: general/<task>, regression/<file>, either without its kind, or a path to such a file.
        margin: the loss that a verdict on the suite is to tell, of a scale of 1.
        confidence: one-sided, of that verdict.
        scores: files of earlier scorings; by default all that the score book has of exactly this suite.
        root: the folder that holds `eval_suites/`; the installation's by default.
        book: the score book; the installation's by default.

    Raises:
        SuiteUnknown: there is no such suite or file.
        SuiteInvalid: a file of scores holds none of this suite.
    """
    name, path = locate(named, root)
    general = path.suffix == SUFFIX["general"]
    items, findings = read_general(path) if general else read_regression(path)
    power = None
    if items:
        digest = digest_of(path, data_file(path)) if general else digest_of(path)
        folder = (cache or ScoreCache.of(load_settings())).folder
        scorings = scorings_in_files(scores, items) if scores else cached_scorings(folder, digest)
        findings += [*duplicates(items), *imbalance(items, path.name), *one_sided(scorings, items)]
        power = power_of(len(items), margin, confidence, share_of_flips(scorings))
        level: Level = "note" if power.suffices else "warning"
        findings.append(Finding(level=level, code="power", where=path.name, what=power.sentence))
    findings.sort(key=lambda finding: GRAVEST_FIRST.index(finding.level))
    return SuiteCheck(suite=name, path=path, items=len(items), findings=tuple(findings), power=power)


def locate(named: str, root: Path | None = None) -> tuple[str, Path]:
    """A suite's name and file.

    Raises:
        SuiteUnknown: there is no such suite or file, or several.
    """
    known = list_suites(root)
    fitting = [name for name in known if named in (name, name.split("/")[1])]
    if len(fitting) == 1:
        return fitting[0], suite_path(fitting[0], root)
    path = Path(named)
    if not fitting and path.suffix in SUFFIX.values() and path.is_file():
        return path.stem, path.resolve()
    raise SuiteUnknown(
        f"{'Several suites are' if fitting else 'No suite or file is'} called {named!r}; "
        f"known suites: {', '.join(known) or 'none yet'}.",
        "Name one of these, or the path to a .jsonl file of prompts or a .yaml task.",
    )
