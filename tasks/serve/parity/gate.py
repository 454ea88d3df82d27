"""The parity gate: an engine whose answers differ from what its artifact computes gets no traffic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.engines import EnginePlan
from tasks.serve.parity.judge import DEFAULT_NATS, ERROR, Group, allowed_beside, judge
from tasks.serve.parity.measure import Measured, measure
from tasks.serve.parity.reference import Reference
from weighbridge.errors import EngineDiverges
from weighbridge.files import READABLE, write_whole
from weighbridge.settings import Settings

RECORD = "parity.json"
SHOWN = 3
"""Number of the worst prompts that a message shows of each diverging kind."""


class ParityRecord(BaseModel):
    """Distances of an engine that passed; those of production's engine are the noise that others may have."""

    model_config = ConfigDict(frozen=True)

    engine: str
    engine_version: str
    artifact_digest: str
    pid: int
    """Of the measured process; another process must pass again."""
    measured: tuple[Measured, ...]


def pass_gate(
    settings: Settings,
    url: str,
    plan: EnginePlan,
    reference: Reference,
    folder: Path,
    pid: int,
    report: Callable[[str], None],
    key: str = "",
) -> None:
    """Compare an engine's answers with its artifact's reference, and keep the distances in its folder.

    Args:
        settings: the installation's; it keeps the noise of each line's production.
        url: the engine's address.
        plan: the engine's; its model's name is the line's.
        reference: of the artifact that it is to serve.
        folder: the engine's.
        pid: the engine's process.
        report: called with a sentence on the distances.
        key: the engine's, if it demands one.

    Raises:
        EngineDiverges: the distances exceed the allowed noise; the worst prompts are in the message.
        EngineFailed: it answers a prompt with an error.
    """
    kept = _read(folder / RECORD)
    if kept is not None and kept.pid == pid and kept.artifact_digest == reference.artifact_digest:
        return
    for sentence in reference.left_out:
        report(sentence)
    production = _read(_noise_of(settings, plan.model_name))
    known = production is not None and production.engine == plan.engine
    measured = measure(url, plan, reference.probes, key)
    groups = judge(measured, allowed_beside(production.measured) if production and known else DEFAULT_NATS)
    against = "the noise of production's engine" if known else "the default limits"
    if any(group.diverges for group in groups):
        raise EngineDiverges(
            f"The engine does not compute what the artifact does, by {against}: {_faults(groups, measured)}",
            "Compare the engine's flags, version and quantization kernels with what the artifact needs "
            "(docs/explanation/parity.md); production is untouched.",
            where=url,
        )
    report(f"{url} computes what the artifact does, by {against}: {'; '.join(map(_sentence, groups))}")
    record = ParityRecord(
        engine=plan.engine,
        engine_version=plan.engine_version,
        artifact_digest=reference.artifact_digest,
        pid=pid,
        measured=tuple(measured),
    )
    write_whole(folder / RECORD, record.model_dump_json(), READABLE)


def keep_as_noise(settings: Settings, line: str, folder: Path) -> None:
    """Keep the distances of an engine that serves a line, as the noise allowed to later engines."""
    if (folder / RECORD).is_file():
        write_whole(_noise_of(settings, line), (folder / RECORD).read_bytes(), READABLE)


def _noise_of(settings: Settings, line: str) -> Path:
    return settings.home / "parity" / "noise" / f"{line}.json"


def _read(path: Path) -> ParityRecord | None:
    """Read a record; None if there is none, or a damaged one: the engine is measured again."""
    try:
        return ParityRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _sentence(group: Group) -> str:
    return f"{group.name} {group.mean_nats:.4f} nats (allowed {group.allowed_nats:.3f}, {group.prompts} prompts)"


def _faults(groups: Sequence[Group], measured: Sequence[Measured]) -> str:
    parts = []
    for group in groups:
        if not group.diverges:
            continue
        of_group = sorted((row for row in measured if (row.kind, row.gauge) == (group.kind, group.gauge)), key=_nats)
        worst = "; ".join(f"{row.name!r}: {row.nats:.2f} nats, {row.detail}" for row in of_group[: -SHOWN - 1 : -1])
        parts.append(
            f"{group.name} at least {group.low_nats:.3f} nats a prompt with {1 - ERROR:.1%} confidence, where "
            f"{group.allowed_nats:.3f} are allowed; worst of {group.prompts}: {worst}"
        )
    return " | ".join(parts)


def _nats(row: Measured) -> float:
    return row.nats
