"""KL divergence, top-1 agreement and perplexity of a candidate on the held text, from the two models' folders.

Distributions over the whole vocabulary are needed, so endpoints cannot be measured: vLLM's `echo` returns the
likelihood of the prompt's own tokens and of a few others, which gives neither a KL divergence nor a valid bound on it.
Errors of the engine itself show in the regression suites.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from math import exp
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.drift.distributions_child import DocumentDivergence, Job, Message
from tasks.evaluate.drift.held_out import HeldDocument, held_documents, text_digest
from tasks.evaluate.drift.intervals import Interval, mean_interval, positive_mean_interval
from tasks.evaluate.drift.reading import Reading
from tasks.evaluate.drift.signals import DriftSignal, make_signal
from tasks.evaluate.scoring.lm_eval import device_name, scoring_device, scoring_dtype
from tasks.evaluate.scoring.model_files import folder_digest
from weighbridge.child_process import log_tail, model_environment, run_child
from weighbridge.errors import DiskFull, ScoringFailed
from weighbridge.files import write_whole
from weighbridge.line import Bounds
from weighbridge.settings import load_settings

VERSION = 1
"""Version of the measurement, part of the result's key; raise it when the numbers change."""
CONTEXT_TOKENS = 512
TAIL_LINES = 12
Progress = Callable[[int, int], None]


class Distributions(BaseModel):
    """Divergence of two models' next-token distributions, for each document."""

    model_config = ConfigDict(frozen=True)

    production_digest: str
    candidate_digest: str
    text_digest: str
    scorer: str
    """Name of the measurement; see `measurement_name`."""
    reading: Reading
    documents: tuple[DocumentDivergence, ...]
    """Empty if the two models cannot be compared token by token."""
    together: bool
    """Whether both models were in memory at once."""
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens compared."""
        return sum(document.tokens for document in self.documents)


def measure_distributions(
    candidate_folder: Path,
    production_folder: Path,
    *,
    candidate_digest: str = "",
    production_digest: str = "",
    documents: Sequence[HeldDocument] | None = None,
    context_tokens: int = CONTEXT_TOKENS,
    together: bool | None = None,
    progress: Progress | None = None,
    home: Path | None = None,
) -> Distributions:
    """Compare two models' distributions on the held text in a child process, or return the stored result.

    Args:
        candidate_folder: the candidate, as transformers loads it.
        production_folder: the model to compare with.
        candidate_digest: the candidate's identity; hashed from its files if empty.
        production_digest: the other model's identity; hashed from its files if empty.
        documents: the text; the project's held text by default.
        context_tokens: the longest window.
        together: whether to hold both models in memory at once; by default if memory allows.
        progress: called with windows done and in all, each counted once for each model.
        home: the installation's folder, where results are stored.

    Raises:
        ScoringFailed: a model does not load, its logits are not finite, or the process died.
        DiskFull: the models do not fit into memory together, and production's distributions do not fit on the disk.
        ModelUnreadable: a folder has no model.
    """
    chosen = tuple(documents) if documents is not None else held_documents()
    candidate_digest = candidate_digest or folder_digest(candidate_folder, load_settings().home)
    production_digest = production_digest or folder_digest(production_folder, load_settings().home)
    digest, scorer = text_digest(chosen), measurement_name(context_tokens)
    result_path = _result_path(home or load_settings().home, production_digest, candidate_digest, digest, scorer)
    if result_path.is_file():
        return Distributions.model_validate_json(result_path.read_bytes())
    log = load_settings().logs_folder / f"drift-{candidate_digest[:12]}.log"
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weighbridge-drift-") as scratch:
        job = Job(
            production_folder=production_folder.resolve(),
            candidate_folder=candidate_folder.resolve(),
            documents=chosen,
            context_tokens=context_tokens,
            device=scoring_device(),
            dtype=scoring_dtype(),
            scratch=Path(scratch),
            together=together,
        )
        last = _run_child(job, log, progress or (lambda done, total: None))
    assert last.reading is not None
    result = Distributions(
        production_digest=production_digest,
        candidate_digest=candidate_digest,
        text_digest=digest,
        scorer=scorer,
        reading=last.reading,
        documents=last.documents,
        together=last.together,
        seconds=round(time.monotonic() - started, 3),
    )
    write_whole(result_path, result.model_dump_json())
    return result


def measurement_name(context_tokens: int = CONTEXT_TOKENS) -> str:
    """Name of the measurement: its version, packages, number format, device and context, which all move the numbers."""
    packages = " ".join(f"{package} {version(package)}" for package in ("transformers", "torch", "compressed-tensors"))
    return f"drift {VERSION} {packages} {scoring_dtype()} {device_name()} context {context_tokens}"


def distribution_signals(found: Distributions, bounds: Bounds, confidence: float) -> tuple[DriftSignal, ...]:
    """Make the signals of a comparison, each with an interval over documents."""
    signals = [_reading_signal(found.reading, bounds)]
    documents = found.documents
    if not documents:
        return tuple(signals)
    sizes = [float(document.tokens) for document in documents]

    kl = positive_mean_interval([document.kl_nats for document in documents], sizes, confidence)
    agreed = mean_interval([float(document.agreed) for document in documents], sizes, confidence)
    low, high = (None if bound is None else min(max(bound, 0.0), 1.0) for bound in (agreed.low, agreed.high))
    agreed = Interval(agreed.mean, low, high, agreed.units)
    risen = mean_interval(
        [document.candidate_nll_nats - document.production_nll_nats for document in documents], sizes, confidence
    )
    before = sum(document.production_nll_nats for document in documents) / found.tokens
    after = sum(document.candidate_nll_nats for document in documents) / found.tokens
    low, high = (None if bound is None else _exp(bound) for bound in (risen.low, risen.high))
    perplexity = Interval(_exp(risen.mean), low, high, risen.units)
    return (
        *signals,
        make_signal("KL", kl, unit="nats a token", bound=bounds.max_kl_nats),
        make_signal("top-1 agreement", agreed, unit="share", bound=bounds.min_top1_agreement, side="at least"),
        make_signal("perplexity", perplexity, unit="×", bound=None, production=_exp(before), candidate=_exp(after)),
    )


def _reading_signal(reading: Reading, bounds: Bounds) -> DriftSignal:
    """The share of texts with other tokens: counted, not sampled, so its interval is a point."""
    share = len(reading.differ) / reading.documents
    note = reading.example if reading.differ else ""
    if reading.differ:
        note = f"{len(reading.differ)} of {reading.documents} held texts become other tokens: {note}"
    return make_signal(
        "texts read differently",
        Interval(share, share, share, reading.documents),
        unit="share",
        bound=bounds.max_text_mismatch_share,
        note=note,
    )


def _exp(value: float) -> float:
    # Larger perplexities are not worth comparing, and exp would overflow.
    return exp(min(value, 50.0))


def _result_path(home: Path, production: str, candidate: str, text: str, scorer: str) -> Path:
    key = hashlib.sha256(json.dumps([production, candidate, text, scorer]).encode()).hexdigest()[:24]
    return home / "scores" / "drift" / f"{candidate[:12]}-{key}.json"


def _run_child(job: Job, log: Path, progress: Progress) -> Message:
    """Run the process and return its last message.

    Raises:
        ScoringFailed, DiskFull: as for `measure_distributions`.
    """
    job_file = job.scratch / "job.json"
    job_file.write_text(job.model_dump_json())
    last: Message | None = None

    def read_message(line: str) -> None:
        nonlocal last
        last = Message.model_validate_json(line)
        if last.kind == "step":
            progress(last.done, last.total)

    status = run_child("tasks.evaluate.drift.distributions_child", job_file, log, model_environment(), read_message)
    if last is None or last.kind != "done" or status:
        raise _failure(last, status, log)
    return last


def _failure(last: Message | None, status: int, log: Path) -> ScoringFailed | DiskFull:
    if last is not None and last.kind == "disk full":
        return DiskFull(last.text, "Free some disk, or point TMPDIR at a larger one.", where=tempfile.gettempdir())
    if last is not None and last.kind == "refused":
        return ScoringFailed(last.text, "Check the model's weights; no verdict was drawn.", where=str(log))
    if status < 0:
        ended = f"was killed by signal {-status}, often for lack of memory"
    else:
        tail = log_tail(log, TAIL_LINES)
        ended = f"ended with status {status}:\n{tail}\n"
    return ScoringFailed(
        f"The process that compares distributions {ended}.", "Read the log, then run it again.", where=str(log)
    )
