"""An artifact's parity reference: transformers' answers to the probes, computed once, kept under `<home>/parity/`.

The model is loaded as scoring loads it, in a separate process that ends before the engine starts: both together may
not fit into a GPU's memory. A release computes the reference of each candidate that passes; promotions read it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry.store import Artifact, Store
from tasks.evaluate.drift.held_out import held_documents
from tasks.evaluate.scoring.lm_eval import scoring_device, scoring_dtype
from tasks.serve.parity.probes import Question, digest
from tasks.serve.parity.reference_job import Choice, Job, Probe
from weighbridge.child_process import log_tail, model_environment, run_child
from weighbridge.errors import ScoringFailed
from weighbridge.files import READABLE, write_whole
from weighbridge.settings import Settings

__all__ = ["Choice", "Probe", "Question", "Reference", "reference_for"]

TAIL_LINES = 8


class Reference(BaseModel):
    """The probes for one artifact and context, with transformers' answer to each."""

    model_config = ConfigDict(frozen=True)

    artifact_digest: str
    context: int
    scorer: str
    """Versions that computed it; not part of its identity, because every sound version computes the same."""
    probes: tuple[Probe, ...]
    left_out: tuple[str, ...] = ()
    """Sentences: the probes that are left out for this artifact, and why."""


def reference_for(
    settings: Settings, artifact: Artifact, context: int, report: Callable[[str], None] = lambda _: None
) -> Reference:
    """Read an artifact's reference, or compute it if there is none yet.

    Args:
        settings: of the installation.
        artifact: the model.
        context: the line's, tokens.
        report: called with a sentence if it has to be computed.

    Raises:
        ArtifactDamaged, ArtifactUnsigned: its files are not those of its signed manifest, before or after.
        ScoringFailed: transformers does not load the artifact, or its process died.
    """
    kept = reference_path(settings, artifact, context)
    if kept.is_file():
        return Reference.model_validate_json(kept.read_bytes())
    report(f"Computing the parity reference of {artifact.short} with transformers, once")
    log = settings.logs_folder / f"parity-{artifact.digest[:12]}.log"
    with (
        Store.of(settings).reading(artifact) as (folder,),
        tempfile.TemporaryDirectory(prefix="weighbridge-parity-") as scratch,
    ):
        job = Job(
            folder=folder,
            documents=held_documents(),
            context=context,
            device=scoring_device(),
            dtype=scoring_dtype(),
            out=Path(scratch) / "reference.json",
        )
        job_file = Path(scratch) / "job.json"
        job_file.write_text(job.model_dump_json())
        status = run_child("tasks.serve.parity.reference_child", job_file, log, model_environment(), lambda _: None)
        if status:
            raise _failure(artifact, status, log)
        probes, left_out = job.read()
    reference = Reference(
        artifact_digest=artifact.digest,
        context=context,
        scorer=f"transformers {version('transformers')} torch {version('torch')} {job.dtype} {job.device}",
        probes=probes,
        left_out=left_out,
    )
    write_whole(kept, reference.model_dump_json(), READABLE)
    return reference


def reference_path(settings: Settings, artifact: Artifact, context: int) -> Path:
    """File of an artifact's reference."""
    name = f"{artifact.digest}-{probes_digest(context)[:12]}.json"
    return settings.home / "parity" / "references" / name


def probes_digest(context: int) -> str:
    """Digest of the probes for a context, 64 hex digits."""
    return digest(held_documents(), context)


def _failure(artifact: Artifact, status: int, log: Path) -> ScoringFailed:
    how = f"was killed by signal {-status}, often for lack of memory" if status < 0 else f"ended with {status}"
    tail = log_tail(log, TAIL_LINES)
    return ScoringFailed(
        f"{artifact.short} has no parity reference: the process that computes it with transformers {how}: {tail}",
        "Read the log; without a reference no engine of this artifact takes traffic.",
        where=str(log),
    )
