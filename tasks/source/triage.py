"""Triage: decide what to do about a commit before any of its weights is downloaded.

It reads the card, config.json and, through `fits`, the safetensors headers (one ranged request a file). All reasons
are reported, not only the first. The outcome is one of

    release  admissible, and the line's policy lets the watch start it
    notify   a person has to act: start it, ask for access, or check what cannot be decided here
    ignore   it cannot be released under the line's rules
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from registry.installation import Installation
from registry.watch.ledger import DecidedAction, Decision, Numbers, Reason
from tasks.source import admission
from tasks.source.pinned import Source
from tasks.source.provider import provider_of
from tasks.source.released import Released
from tasks.source.successors import BILLION, ListedCommit
from weighbridge.errors import ArchitectureUnknown, DoesNotFit, SourceRefused, SourceUnknown
from weighbridge.line import Line
from weighbridge.units import GIB


class _Row(Protocol):
    @property
    def gpu(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def scheme(self) -> str: ...
    @property
    def verdict(self) -> Literal["fits", "tight", "no"]: ...
    @property
    def weights_gib(self) -> float: ...
    @property
    def total_gib(self) -> float: ...
    @property
    def capacity_gib(self) -> float: ...


class FitSummary(Protocol):
    """The part of a fit report that triage reads; `tasks.fit.rows.FitReport` has it."""

    @property
    def rows(self) -> Sequence[_Row]: ...
    @property
    def schemes(self) -> Sequence[str]: ...


class FitCheck(Protocol):
    """The signature of `tasks.fit.report.fit_release`; its DoesNotFit or ArchitectureUnknown has the reason."""

    def __call__(self, installation: Installation, source: Source, line: Line, /) -> FitSummary:
        """Plan a pinned release."""


class KnownArchitectures(Protocol):
    """What triage reads of an engine's list of architectures; `tasks.engines.KnownArchitectures` has it."""

    @property
    def engine(self) -> str: ...
    @property
    def unlisted(self) -> Literal["refuses", "asks", "notes"]: ...
    @property
    def architectures(self) -> frozenset[str]: ...


class ArchitectureLookup(Protocol):
    """The signature of `tasks.engines.known_architectures`."""

    def __call__(self, name: str, /) -> KnownArchitectures | None:
        """Find the architectures that an engine documents, or None if it has no list."""


def triage(
    installation: Installation,
    found: ListedCommit,
    line: Line,
    rules: str,
    fits: FitCheck,
    known_architectures: ArchitectureLookup,
    last: Released | None = None,
) -> Decision:
    """Decide about a new commit.

    Args:
        installation: names the Hub and the store's folder.
        found: the commit.
        line: with its admission rules and policy.
        rules: digest of these, for the ledger.
        fits: plans the release on the line's GPUs.
        known_architectures: finds the architectures that the line's engine documents.
        last: the line's last release from this source.

    Raises:
        SourceUnreachable, SourceUnknown, SourceDamaged: the Hub did not answer, or with wrong data.
        EngineUnknown, GpuUnknown, SchemeUnknown: the line names an unknown engine, GPU or scheme.
    """
    content = ""
    numbers = Numbers(parameters_billion=found.parameters / BILLION if found.parameters else None)
    try:
        provider = provider_of(installation.settings, found.repo)
        source = provider.pin(found.commit, line.admission.max_download_gib)
    except SourceUnknown as error:
        if not found.gated:
            raise
        reasons: tuple[Reason, ...] = tuple(_gated(found, line, error))
    else:
        content = source.content
        report, unfit = _fit(installation, source, line, fits)
        numbers = _numbers(source, report, numbers, _free_gib(installation.settings.store_folder))
        reasons = (
            *_unchanged(source, found, line, last),
            *_family(source, found, line),
            *_admission(source, line),
            *_engine(source, known_architectures(line.engine.name)),
            *_disk(numbers),
            *unfit,
        )
    reasons = (*reasons, *_policy(found, line, reasons))
    return Decision(
        line=line.name,
        kind=found.kind,
        repo=found.repo,
        commit=found.commit,
        outcome=_outcome(reasons),
        reasons=reasons,
        numbers=numbers,
        rules=rules,
        content=content,
    )


def _outcome(reasons: Sequence[Reason]) -> DecidedAction:
    weights = {reason.weight for reason in reasons}
    return "ignore" if "refuses" in weights else "notify" if "asks" in weights else "release"


def _gated(found: ListedCommit, line: Line, error: SourceUnknown) -> Iterator[Reason]:
    """How to get access; refused if the line does not allow the licence, so that nobody accepts its terms in vain."""
    allowed = {licence.lower() for licence in line.admission.licences}
    if found.licence and found.licence.lower() not in allowed:
        text = f"licence {found.licence} is not allowed (allowed: {', '.join(line.admission.licences) or 'none'})"
        yield Reason(code="admission", text=text, weight="refuses")
    yield Reason(code="gated", text=f"{error.what} {error.next_step}", weight="asks", lasting=False)


def _unchanged(source: Source, found: ListedCommit, line: Line, last: Released | None) -> Iterator[Reason]:
    if found.kind == "commit" and last and last.is_same(source) and line.watch.on_unchanged == "ignore":
        text = f"weights unchanged: but for its documents it is {last.commit[:12]}, released on {last.at[:10]}"
        yield Reason(code="unchanged", text=text, weight="refuses")


def _family(source: Source, found: ListedCommit, line: Line) -> Iterator[Reason]:
    """Check a successor's architecture by its config, which the listing does not contain."""
    allowed, names = set(line.watch.architectures), source.config.get("architectures") or []
    if found.kind == "successor" and allowed and names and not allowed & set(names):
        yield Reason(
            code="family",
            text=f"{', '.join(names)} is not among the successors' architectures ({', '.join(sorted(allowed))})",
            weight="refuses",
        )


def _admission(source: Source, line: Line) -> tuple[Reason, ...]:
    """The reasons of `admit` against a release, so that the watch starts no release that will be refused."""
    try:
        admission.admit(source, line)
    except SourceRefused as error:
        against = error.what.removeprefix(f"{source.short} is refused: ").removesuffix(".")
        return tuple(Reason(code="admission", text=text, weight="refuses") for text in against.split("; "))
    return ()


def _engine(source: Source, known: KnownArchitectures | None) -> Iterator[Reason]:
    names = source.config.get("architectures") or []
    if known and names and not set(names) <= known.architectures:
        yield Reason(
            code="engine",
            text=f"{known.engine} does not list {', '.join(names)} among its architectures: try it first",
            weight=known.unlisted,
        )


def _fit(
    installation: Installation, source: Source, line: Line, fits: FitCheck
) -> tuple[FitSummary | None, tuple[Reason, ...]]:
    if not source.config or not any(file.is_weights for file in source.files):
        return None, ()  # reported by the admission rules already
    try:
        return fits(installation, source, line), ()
    except DoesNotFit as error:
        return None, (Reason(code="fit", text=f"{error.what} {error.next_step}", weight="refuses"),)
    except (ArchitectureUnknown, SourceRefused) as error:
        return None, (Reason(code="fit", text=error.what, weight="refuses"),)


def _numbers(source: Source, report: FitSummary | None, before: Numbers, free_gib: float) -> Numbers:
    download = source.size_bytes / GIB
    found: Mapping[str, Any] = {"download_gib": round(download, 3), "disk_free_gib": round(free_gib, 3)}
    rows = [row for row in report.rows if row.verdict != "no"] if report else []
    artifact_gib = {row.scheme: row.weights_gib * row.count for row in rows if row.scheme != "bf16"}
    found = {**found, "disk_needed_gib": round(download + sum(artifact_gib.values()), 3)}
    if rows:
        best = min(rows, key=lambda row: (row.verdict != "fits", row.total_gib / row.capacity_gib))
        found = {
            **found,
            "memory_needed_gib": round(best.total_gib, 2),
            "memory_there_gib": round(best.capacity_gib, 2),
            "fits_as": f"{best.scheme} on {best.gpu}",
        }
    return before.model_copy(update=found)


def _free_gib(folder: Path) -> float:
    """Free space on a folder's disk; the folder need not exist yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free / GIB


def _disk(numbers: Numbers) -> Iterator[Reason]:
    needed, free = numbers.disk_needed_gib, numbers.disk_free_gib
    if needed is not None and free is not None and needed > free:
        yield Reason(
            code="disk",
            text=f"download and artifacts need {needed:.2f} GiB of disk and {free:.2f} GiB are free",
            weight="asks",
            lasting=False,
        )


def _policy(found: ListedCommit, line: Line, reasons: Sequence[Reason]) -> Iterator[Reason]:
    """The line's policy for an admissible commit."""
    if any(reason.weight == "refuses" for reason in reasons):
        return
    field = "on_successor" if found.kind == "successor" else "on_new"
    policy = getattr(line.watch, field)
    if policy == "notify":
        yield Reason(code="policy", text=f"a person starts it: {_manual_start(found, line)}", weight="asks")
    elif reasons and _outcome(reasons) == "notify":
        yield Reason(code="policy", text=f"then start it: {_manual_start(found, line)}", weight="notes")
    else:
        yield Reason(code="policy", text=f"watch.{field} is release", weight="notes")


def _manual_start(found: ListedCommit, line: Line) -> str:
    if found.kind == "successor":
        return f"change `source` in lines/{line.name}.yaml to hf://{found.repo}, then `weighbridge release {line.name}`"
    return f"`weighbridge release {line.name} --revision {found.commit}`"
