"""What transformers says of the probes for an artifact: made once, kept under `<home>/parity/`.

The model is loaded as scoring loads it, in a process of its own and before the engine starts, so that on a GPU the two
do not fill its memory together. The release makes it for each candidate that passes; whoever needs it later finds it.
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
from weighbridge.settings import load_settings

__all__ = ["Choice", "Probe", "Question", "Reference", "reference_for"]

TAIL_LINES = 8


class Reference(BaseModel):
    """The probes for one artifact and context, with what transformers says of each."""

    model_config = ConfigDict(frozen=True)

    artifact_digest: str
    context: int
    scorer: str
    """What it was made with; not part of its identity, for the artifact says the same to every sound version."""
    probes: tuple[Probe, ...]
    left_out: tuple[str, ...] = ()
    """Sentences: what is not asked of this artifact, and why."""


def reference_for(artifact: Artifact, context: int, tell: Callable[[str], None] = lambda _: None) -> Reference:
    """The reference of an artifact: the one that is kept, else made now.

    Args:
        context: the line's, tokens.
        tell: called with a sentence when it has to be made.

    Raises:
        ArtifactDamaged: its files are no longer those of its manifest.
        ScoringFailed: transformers does not load the artifact, or its process died.
    """
    settings = load_settings()
    kept = path_of(artifact, context)
    if kept.is_file():
        return Reference.model_validate_json(kept.read_bytes())
    store = Store.of(settings)
    store.verify(artifact)
    tell(f"Asking transformers what {artifact.short} is to say, once")
    log = settings.logs_folder / f"parity-{artifact.digest[:12]}.log"
    with tempfile.TemporaryDirectory(prefix="weighbridge-parity-") as scratch:
        job = Job(
            folder=store.path(artifact),
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
    found = Reference(
        artifact_digest=artifact.digest,
        context=context,
        scorer=f"transformers {version('transformers')} torch {version('torch')} {job.dtype} {job.device}",
        probes=probes,
        left_out=left_out,
    )
    write_whole(kept, found.model_dump_json(), READABLE)
    return found


def path_of(artifact: Artifact, context: int) -> Path:
    """Where an artifact's reference is kept."""
    name = f"{artifact.digest}-{probes_digest(context)[:12]}.json"
    return load_settings().home / "parity" / "references" / name


def probes_digest(context: int) -> str:
    """What the probes of a context are made of, 64 hex digits."""
    return digest(held_documents(), context)


def _failure(artifact: Artifact, status: int, log: Path) -> ScoringFailed:
    ended = f"was killed by signal {-status}, often for want of memory" if status < 0 else f"ended with {status}"
    tail = log_tail(log, TAIL_LINES)
    return ScoringFailed(
        f"What {artifact.short} is to say is not known: the process that asks transformers {ended}: {tail}",
        "Read the log; without a reference no engine of this artifact takes traffic.",
        where=str(log),
    )
