"""The engine-parity gate: an engine that computes something else than its artifact says takes no traffic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.engines import EnginePlan
from tasks.serve.parity.judge import DEFAULT_NATS, ERROR, Group, allowed_beside, judge
from tasks.serve.parity.measure import Measured, measure
from tasks.serve.parity.reference import Reference
from weighbridge.errors import EngineDiverges
from weighbridge.files import READABLE, write_whole
from weighbridge.settings import Settings

RECORD = "parity.json"
SHOWN = 3
"""Worst prompts of each kind that diverges."""


class Record(BaseModel):
    """What was measured of an engine that passed; of the one in production it is the noise that others may have."""

    model_config = ConfigDict(frozen=True)

    engine: str
    engine_version: str
    artifact_digest: str
    pid: int
    """Of the process that was measured: another must pass anew."""
    measured: tuple[Measured, ...]


def pass_gate(
    settings: Settings,
    url: str,
    plan: EnginePlan,
    reference: Reference,
    folder: Path,
    pid: int,
    report: Callable[[str], None],
) -> None:
    """Let an engine pass that computes what its artifact says; what was measured is kept in its folder.

    Args:
        settings: the installation's; it keeps the noise of each line's production.
        url: the engine's address.
        plan: what it was told to serve; its model's name is the line's.
        reference: of the artifact that it is to serve.
        folder: the engine's.
        pid: its process.
        report: called with a sentence on what was compared and how far apart it was.

    Raises:
        EngineDiverges: with the worst prompts.
        EngineFailed: it answers a prompt with an error.
    """
    kept = _read(folder / RECORD)
    if kept is not None and kept.pid == pid and kept.artifact_digest == reference.artifact_digest:
        return
    for sentence in reference.left_out:
        report(sentence)
    production = _read(_noise_of(settings, plan.model_name))
    known = production is not None and production.engine == plan.engine
    measured = measure(url, plan, reference.probes)
    groups = judge(measured, allowed_beside(production.measured) if production and known else DEFAULT_NATS)
    against = "the noise of production's engine" if known else "the default limits"
    if any(group.diverges for group in groups):
        raise EngineDiverges(
            f"The engine does not compute what the artifact says, by {against}: {_faults(groups, measured)}",
            "Compare the engine's flags, version and quantization kernels with what the artifact needs "
            "(docs/explanation/parity.md); production is untouched.",
            where=url,
        )
    report(f"{url} computes what the artifact says, by {against}: {'; '.join(map(_sentence, groups))}")
    record = Record(
        engine=plan.engine,
        engine_version=plan.engine_version,
        artifact_digest=reference.artifact_digest,
        pid=pid,
        measured=tuple(measured),
    )
    write_whole(folder / RECORD, record.model_dump_json(), READABLE)


def keep_as_noise(settings: Settings, line: str, folder: Path) -> None:
    """Remember what was measured of an engine that serves a line, for those that come after it."""
    if (folder / RECORD).is_file():
        write_whole(_noise_of(settings, line), (folder / RECORD).read_bytes(), READABLE)


def _noise_of(settings: Settings, line: str) -> Path:
    return settings.home / "parity" / "noise" / f"{line}.json"


def _read(path: Path) -> Record | None:
    return Record.model_validate_json(path.read_bytes()) if path.is_file() else None


def _sentence(group: Group) -> str:
    return f"{group.name} {group.mean_nats:.4f} nats (allowed {group.allowed_nats:.3f}, {group.prompts} prompts)"


def _faults(groups: Sequence[Group], measured: Sequence[Measured]) -> str:
    parts = []
    for group in groups:
        if not group.diverges:
            continue
        here = sorted((one for one in measured if (one.kind, one.gauge) == (group.kind, group.gauge)), key=_nats)
        worst = "; ".join(f"{one.name!r}: {one.nats:.2f} nats, {one.told}" for one in here[: -SHOWN - 1 : -1])
        parts.append(
            f"{group.name} at least {group.low_nats:.3f} nats a prompt with {1 - ERROR:.1%} confidence, where "
            f"{group.allowed_nats:.3f} are allowed; worst of {group.prompts}: {worst}"
        )
    return " | ".join(parts)


def _nats(one: Measured) -> float:
    return one.nats
