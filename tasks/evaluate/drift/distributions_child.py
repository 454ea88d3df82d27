"""The process that compares distributions: `python -m tasks.evaluate.drift.distributions_child JOB.json`.

It is a separate process because loaders of quantized models patch modules that they import, and so that running out of
memory kills nothing else. It reports progress as lines of JSON on standard output; the output of libraries goes to
standard error, which is the log. Both models are held in memory together if they fit. If not, production's
distributions are first written to the disk, one file for each window.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.drift.divergence import Divergence, Vocabularies, diverge, line_up
from tasks.evaluate.drift.free_memory import fit_together
from tasks.evaluate.drift.held_out import HeldDocument
from tasks.evaluate.drift.reading import SMALLEST_SHARED_VOCABULARY, Reading, Window, read_documents
from tasks.evaluate.scoring.model_loading import model_arguments
from tasks.source.chat_templates import TemplateRefuses
from weighbridge.errors import ModelUnreadable
from weighbridge.units import GIB

SPARE_DISK_BYTES = GIB
"""Disk space that stays free when distributions are written."""


class Job(BaseModel):
    """The child's job."""

    model_config = ConfigDict(frozen=True)

    production_folder: Path
    candidate_folder: Path
    documents: tuple[HeldDocument, ...]
    context_tokens: int
    device: Literal["cpu", "cuda"]
    dtype: str
    """`float32`, or `auto` for the number format of each artifact."""
    scratch: Path
    """Folder for production's distributions if the models do not fit into memory together."""
    together: bool | None = None
    """Whether to hold both models in memory at once; None: if memory allows."""


class DocumentDivergence(BaseModel):
    """Sums over one document's compared tokens; a conversation's turns before an answer are only read."""

    model_config = ConfigDict(frozen=True)

    document: str
    tokens: int
    kl_nats: float
    agreed: int
    production_nll_nats: float
    candidate_nll_nats: float


class Message(BaseModel):
    """A message of the child: progress, or as the last one its result or the reason of its failure."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["step", "done", "refused", "disk full"]
    done: int = 0
    """Windows done, counted once for each model."""
    total: int = 0
    text: str = ""
    reading: Reading | None = None
    documents: tuple[DocumentDivergence, ...] = ()
    together: bool = True


LineUp = Callable[[int, int], Vocabularies]


class Refused(Exception):
    """The models cannot be compared: the numbers would be wrong."""


class NotEnoughDisk(Exception):
    """The disk has too little space for production's distributions."""


def run(job: Job, report: Callable[[Message], None]) -> Message:
    """Compare two models.

    Returns:
        The last message. It has no documents if the two cannot be compared token by token; its reading says why.

    Raises:
        Refused: a model does not load, or its logits are not finite.
        NotEnoughDisk: the disk has too little space for production's distributions.
    """
    production, candidate = load_tokenizer(job.production_folder), load_tokenizer(job.candidate_folder)
    try:
        windows, reading = read_documents(job.documents, production, candidate, job.context_tokens)
    except (ModelUnreadable, TemplateRefuses) as error:
        raise Refused(f"The held conversations cannot be written as the model's prompts: {error}.") from None
    if not windows or reading.vocabulary_shared < SMALLEST_SHARED_VOCABULARY:
        return Message(kind="done", reading=reading)
    folders = (job.production_folder, job.candidate_folder)
    together = job.together if job.together is not None else fit_together(folders, job.device, job.dtype)
    total, done = 2 * len(windows), 0

    def step() -> None:
        nonlocal done
        done += 1
        report(Message(kind="step", done=done, total=total))

    compare = _compare_together if together else _compare_apart
    try:
        divergences = compare(job, windows, partial(line_up, production.get_vocab(), candidate.get_vocab()), step)
    except FloatingPointError as error:
        raise Refused(f"The held text cannot be compared: {error}.") from error
    return Message(
        kind="done",
        done=total,
        total=total,
        reading=reading,
        documents=_by_document(windows, divergences),
        together=together,
    )


def _compare_together(
    job: Job, windows: Sequence[Window], line_up_columns: LineUp, step: Callable[[], None]
) -> list[Divergence]:
    production = load_model(job.production_folder, job.device, job.dtype)
    candidate = load_model(job.candidate_folder, job.device, job.dtype)
    columns, divergences = None, []
    for window in windows:
        production_logits = logits_of(production, window.production_ids, window.compared)
        step()
        candidate_logits = logits_of(candidate, window.candidate_ids, window.compared)
        columns = columns or line_up_columns(production_logits.shape[-1], candidate_logits.shape[-1])
        divergences.append(
            divergence_of(production_logits, candidate_logits.to(production_logits.device), window, columns)
        )
        step()
    return divergences


def _compare_apart(
    job: Job, windows: Sequence[Window], line_up_columns: LineUp, step: Callable[[], None]
) -> list[Divergence]:
    import numpy as np
    import torch

    production = load_model(job.production_folder, job.device, job.dtype)
    remaining = sum(window.compared for window in windows)
    for number, window in enumerate(windows):
        production_logits = logits_of(production, window.production_ids, window.compared)
        if number == 0:
            _require_disk(job.scratch, remaining * production_logits.shape[-1] * 4)
        # In float32: rounded further, a model would differ from itself.
        np.save(job.scratch / f"{number}.npy", production_logits.float().cpu().numpy())
        step()
    del production, production_logits
    gc.collect()
    if job.device == "cuda":
        torch.cuda.empty_cache()
    candidate = load_model(job.candidate_folder, job.device, job.dtype)
    columns, divergences = None, []
    for number, window in enumerate(windows):
        candidate_logits = logits_of(candidate, window.candidate_ids, window.compared)
        path = job.scratch / f"{number}.npy"
        production_logits = torch.from_numpy(np.load(path))
        path.unlink()
        columns = columns or line_up_columns(production_logits.shape[-1], candidate_logits.shape[-1])
        divergences.append(
            divergence_of(production_logits.to(candidate_logits.device), candidate_logits, window, columns)
        )
        step()
    return divergences


def divergence_of(production_logits: Any, candidate_logits: Any, window: Window, columns: Vocabularies) -> Divergence:
    """Compare the logits of one window."""
    import torch

    targets = torch.tensor(window.production_ids[-window.compared :])
    return diverge(production_logits, candidate_logits, targets, columns)


def logits_of(model: Any, ids: Sequence[int], compared: int) -> Any:
    """Return the logits that predict the last `compared` tokens: (compared, columns)."""
    import torch

    # Without this argument the head computes logits for the whole window.
    keep = {"logits_to_keep": compared + 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    with torch.inference_mode():
        logits = model(torch.tensor([list(ids)], device=model.device), use_cache=False, **keep).logits[0]
    return logits[-compared - 1 : -1]


def load_model(folder: Path, device: str, dtype: str) -> Any:
    """Load a model on its device, or across all GPUs if there are several."""
    import torch
    from transformers import AutoModelForCausalLM

    several = device == "cuda" and torch.cuda.device_count() > 1
    number = dtype if dtype == "auto" else getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=number,
        trust_remote_code=False,
        device_map="auto" if several else None,
        **model_arguments(folder),
    ).eval()
    return model if several else model.to(device)


def load_tokenizer(folder: Path) -> Any:
    """Load a model's own tokenizer, with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _require_disk(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes + SPARE_DISK_BYTES > free:
        raise NotEnoughDisk(
            f"The two models do not fit into memory together, and production's distributions take "
            f"{needed_bytes / GIB:.1f} GiB of disk; {free / GIB:.1f} GiB are free."
        )


def _by_document(windows: Sequence[Window], divergences: Sequence[Divergence]) -> tuple[DocumentDivergence, ...]:
    names = dict.fromkeys(window.document for window in windows)
    paired = list(zip(windows, divergences))
    by_name = {name: [part for window, part in paired if window.document == name] for name in names}
    return tuple(
        DocumentDivergence(
            document=name,
            tokens=sum(part.tokens for part in parts),
            kl_nats=sum(part.kl_nats for part in parts),
            agreed=sum(part.agreed for part in parts),
            production_nll_nats=sum(part.production_nll_nats for part in parts),
            candidate_nll_nats=sum(part.candidate_nll_nats for part in parts),
        )
        for name, parts in by_name.items()
    )


def main(path: Path) -> int:
    """Run the job in a file and return the exit status."""
    job = Job.model_validate_json(path.read_bytes())
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(message: Message) -> None:
        print(message.model_dump_json(), file=out, flush=True)

    try:
        report(run(job, report))
    except Refused as error:
        report(Message(kind="refused", text=str(error)))
        return 1
    except NotEnoughDisk as error:
        report(Message(kind="disk full", text=str(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
