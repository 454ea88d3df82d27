"""The process that compares distributions: `python -m tasks.evaluate.drift.distributions_child JOB.json`.

A process of its own, because loaders of quantized models patch what they import, and so that one that runs out of
memory takes nothing else with it. It tells how far it is in lines of JSON on its standard output; what libraries
print goes to standard error, which is the log. Both models are held at once where they fit; else production's
distributions go to the disk first, one file a window.
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
from weighbridge.units import GIB

SPARE_DISK_BYTES = GIB
"""Left free for others when distributions are written."""


class Job(BaseModel):
    """What the child has to do."""

    model_config = ConfigDict(frozen=True)

    production_folder: Path
    candidate_folder: Path
    documents: tuple[HeldDocument, ...]
    context_tokens: int
    device: Literal["cpu", "cuda"]
    dtype: str
    """`float32`, or `auto` for each artifact's own."""
    scratch: Path
    """Folder for production's distributions, where both models do not fit at once."""
    together: bool | None = None
    """Whether to hold both models at once; None: as memory allows."""


class DocumentDivergence(BaseModel):
    """Sums over one document's compared tokens."""

    model_config = ConfigDict(frozen=True)

    document: str
    tokens: int
    kl_nats: float
    agreed: int
    production_nll_nats: float
    candidate_nll_nats: float


class Message(BaseModel):
    """What the child tells: how far it is, and at last what it found or why it found nothing."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["step", "done", "refused", "disk full"]
    done: int = 0
    """Windows, counted once a model."""
    total: int = 0
    text: str = ""
    reading: Reading | None = None
    documents: tuple[DocumentDivergence, ...] = ()
    together: bool = True


LineUp = Callable[[int, int], Vocabularies]


class Refused(Exception):
    """The numbers would be wrong."""


class NoDisk(Exception):
    """Production's distributions do not fit on the disk."""


def run(job: Job, tell: Callable[[Message], None]) -> Message:
    """Compare two models.

    Returns:
        The last message. Without documents where the two cannot be compared token by token; its reading says why.

    Raises:
        Refused: a model gives no numbers, or does not load.
        NoDisk: there is no room for production's distributions.
    """
    theirs, ours = load_tokenizer(job.production_folder), load_tokenizer(job.candidate_folder)
    windows, reading = read_documents(job.documents, theirs, ours, job.context_tokens)
    if not windows or reading.vocabulary_shared < SMALLEST_SHARED_VOCABULARY:
        return Message(kind="done", reading=reading)
    folders = (job.production_folder, job.candidate_folder)
    # A conversation's later answers repeat what came before; sums are over compared tokens only.
    together = job.together if job.together is not None else fit_together(folders, job.device, job.dtype)
    total, done = 2 * len(windows), 0

    def step() -> None:
        nonlocal done
        done += 1
        tell(Message(kind="step", done=done, total=total))

    compare = _compare_together if together else _compare_apart
    try:
        found = compare(job, windows, partial(line_up, theirs.get_vocab(), ours.get_vocab()), step)
    except FloatingPointError as error:
        raise Refused(f"The held text cannot be compared: {error}.") from error
    return Message(
        kind="done",
        done=total,
        total=total,
        reading=reading,
        documents=_by_document(windows, found),
        together=together,
    )


def _compare_together(
    job: Job, windows: Sequence[Window], lined_up: LineUp, step: Callable[[], None]
) -> list[Divergence]:
    production = load_model(job.production_folder, job.device, job.dtype)
    candidate = load_model(job.candidate_folder, job.device, job.dtype)
    columns, found = None, []
    for window in windows:
        theirs = logits_of(production, window.production_ids, window.compared)
        step()
        ours = logits_of(candidate, window.candidate_ids, window.compared)
        columns = columns or lined_up(theirs.shape[-1], ours.shape[-1])
        found.append(divergence_of(theirs, ours.to(theirs.device), window, columns))
        step()
    return found


def _compare_apart(job: Job, windows: Sequence[Window], lined_up: LineUp, step: Callable[[], None]) -> list[Divergence]:
    import numpy as np
    import torch

    production = load_model(job.production_folder, job.device, job.dtype)
    remaining = sum(window.compared for window in windows)
    for number, window in enumerate(windows):
        theirs = logits_of(production, window.production_ids, window.compared)
        if number == 0:
            _require_disk(job.scratch, remaining * theirs.shape[-1] * 4)
        # In float32: rounded further, a model would differ from itself.
        np.save(job.scratch / f"{number}.npy", theirs.float().cpu().numpy())
        step()
    del production, theirs
    gc.collect()
    if job.device == "cuda":
        torch.cuda.empty_cache()
    candidate = load_model(job.candidate_folder, job.device, job.dtype)
    columns, found = None, []
    for number, window in enumerate(windows):
        ours = logits_of(candidate, window.candidate_ids, window.compared)
        path = job.scratch / f"{number}.npy"
        theirs = torch.from_numpy(np.load(path))
        path.unlink()
        columns = columns or lined_up(theirs.shape[-1], ours.shape[-1])
        found.append(divergence_of(theirs.to(ours.device), ours, window, columns))
        step()
    return found


def divergence_of(theirs: Any, ours: Any, window: Window, columns: Vocabularies) -> Divergence:
    """Compare the logits of one window."""
    import torch

    targets = torch.tensor(window.production_ids[-window.compared :])
    return diverge(theirs, ours, targets, columns)


def logits_of(model: Any, ids: Sequence[int], compared: int) -> Any:
    """Logits that predict the last `compared` of some tokens: (compared, columns)."""
    import torch

    # Without it the head runs over the whole window.
    keep = {"logits_to_keep": compared + 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    with torch.inference_mode():
        logits = model(torch.tensor([list(ids)], device=model.device), use_cache=False, **keep).logits[0]
    return logits[-compared - 1 : -1]


def load_model(folder: Path, device: str, dtype: str) -> Any:
    """A model on its device, to be asked for logits; across all GPUs where there are several."""
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
    """A model's own tokenizer, with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _require_disk(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes + SPARE_DISK_BYTES > free:
        raise NoDisk(
            f"Both models do not fit into memory at once, and production's distributions take "
            f"{needed_bytes / GIB:.1f} GiB of disk; {free / GIB:.1f} GiB are free."
        )


def _by_document(windows: Sequence[Window], found: Sequence[Divergence]) -> tuple[DocumentDivergence, ...]:
    names = dict.fromkeys(window.document for window in windows)
    parts = {name: [one for window, one in zip(windows, found) if window.document == name] for name in names}
    return tuple(
        DocumentDivergence(
            document=name,
            tokens=sum(one.tokens for one in ones),
            kl_nats=sum(one.kl_nats for one in ones),
            agreed=sum(one.agreed for one in ones),
            production_nll_nats=sum(one.production_nll_nats for one in ones),
            candidate_nll_nats=sum(one.candidate_nll_nats for one in ones),
        )
        for name, ones in parts.items()
    )


def main(path: Path) -> int:
    """Do the job that a file describes; the exit status."""
    job = Job.model_validate_json(path.read_bytes())
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(message: Message) -> None:
        print(message.model_dump_json(), file=out, flush=True)

    try:
        tell(run(job, tell))
    except Refused as error:
        tell(Message(kind="refused", text=str(error)))
        return 1
    except NoDisk as error:
        tell(Message(kind="disk full", text=str(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
