"""From a release in the store to a quantized artifact in the store: whole, proven, or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry.store import Artifact, Store
from tasks.children import run_child
from tasks.quantize.card import copy_companions, write_card
from tasks.quantize.coverage import Coverage, check_coverage
from tasks.quantize.job import Job, Message
from tasks.quantize.plan import Recipe, plan
from tasks.quantize.schemes import scheme as scheme_of
from tasks.quantize.tensors import INDEX, is_finite, read_tensors, weight_files
from weighbridge import __version__
from weighbridge.errors import QuantizationFailed
from weighbridge.settings import load_settings

Progress = Callable[[int, int], None]
LOG_TAIL_LINES = 6
LOG_TAIL_CHARACTERS = 1500


class Record(BaseModel):
    """What the store keeps beside a quantized artifact; not part of its digest."""

    model_config = ConfigDict(frozen=True)

    recipe: Recipe
    coverage: Coverage
    versions: dict[str, str]
    seconds: float
    """On the clock, for the whole step."""
    cpu_seconds: float
    """Of the quantizing process, its imports (10 to 20) included."""
    peak_rss_bytes: int
    """Of the quantizing process."""


def quantize(
    weights: Artifact,
    scheme: str,
    method: str | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Quantize a release.

    Args:
        weights: the release as published.
        scheme: a file of `tasks/quantize/schemes/`.
        method: a file of `tasks/quantize/methods/`; the scheme's cheapest by default.
        store: where the release is and the result goes; the installation's by default.
        progress: told (units done, units in all): one for the check of the source, one a layer, one for the
            check of the result.

    Returns:
        The artifact; for `bf16`, the release itself. The same release and versions give the same digest.

    Raises:
        SchemeUnknown: no such scheme.
        QuantizationUncovered: the scheme cannot cover the release, or did not; nothing is kept.
        QuantizationFailed: the source is damaged, or the quantizing process failed; nothing is kept.
        DiskFull: before anything is written.
        ArtifactMissing: the store does not hold the release.
    """
    store = store or Store()
    chosen = scheme_of(scheme)
    if not chosen.changes_weights:
        return weights
    started = time.monotonic()
    source = store.path(weights)
    recipe = plan(source, chosen, method)
    units = len(recipe.layers) + 2
    report = progress or (lambda done, total: None)
    report(0, units)
    others = sum(file.stat().st_size for file in source.rglob("*") if file.is_file() and file.suffix != ".safetensors")
    store.require_free(recipe.predicted_bytes + others, f"{weights.repo} as {scheme}")
    _require_finite(source)
    report(1, units)
    with store.fresh_staging(weights.line, f"quantize-{weights.digest[:12]}-{scheme}-{recipe.method}") as staging:
        out = staging / "model"
        job = Job(source=_weights_only(source, staging / "source"), out=out, recipe=recipe)
        log = load_settings().logs_folder / f"quantize-{weights.digest[:12]}-{scheme}-{recipe.method}.log"
        last = _run_child(job, staging / "job.json", log, lambda layers: report(1 + min(layers, units - 2), units))
        _tidy(out, source)
        coverage = check_coverage(recipe, out, source)
        copy_companions(source, out)
        write_card(
            source, out, weights=weights, scheme=chosen, recipe=recipe, coverage=coverage, versions=last.versions
        )
        record = Record(
            recipe=recipe,
            coverage=coverage,
            versions={**last.versions, "weighbridge": __version__},
            seconds=round(time.monotonic() - started, 3),
            cpu_seconds=last.cpu_seconds,
            peak_rss_bytes=last.peak_rss_bytes,
        )
        artifact = store.adopt(
            out,
            line=weights.line,
            scheme=scheme,
            repo=weights.repo,
            commit=weights.commit,
            facts=record.model_dump(mode="json"),
        )
    report(units, units)
    return artifact


def record_of(artifact: Artifact, store: Store | None = None) -> Record | None:
    """How an artifact was quantized; None for a release as published."""
    facts = (store or Store()).facts(artifact)
    return Record.model_validate(facts) if "recipe" in facts else None


def _require_finite(source: Path) -> None:
    """Look at every value before the slow part begins: one NaN makes a whole row's scale NaN."""
    for tensor in read_tensors(source):
        if not is_finite(tensor):
            raise QuantizationFailed(
                f"{tensor.name} holds a value that is infinite or not a number.",
                "The release is broken as published: stay with the one before it, and tell its publisher.",
                where=tensor.file.name,
            )


def _weights_only(source: Path, view: Path) -> Path:
    """A folder of links to what the quantizer shall read; it would quantize every other copy of the weights too."""
    view.mkdir()
    names = ["config.json", *(file.name for file in weight_files(source))]
    if (source / INDEX).is_file():
        names.append(INDEX)
    for name in names:
        (view / name).symlink_to((source / name).resolve())
    return view


def _run_child(job: Job, job_file: Path, log: Path, layers_done: Callable[[int], None]) -> Message:
    """Run the quantizing process and follow it.

    Returns:
        Its last message.

    Raises:
        QuantizationFailed: it ended with an error or by a signal; the log's tail is in the message.
    """
    job_file.write_text(job.model_dump_json())
    last: Message | None = None

    def told(line: str) -> None:
        nonlocal last
        last = Message.model_validate_json(line)
        layers_done(last.layers_done)

    # It reads local files only; a library that asks the Hub for one anyway must fail rather than wait.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    status = run_child("tasks.quantize.child", job_file, log, environment, told)
    if status or last is None or not last.versions:
        raise _child_failed(status, log)
    return last


def _child_failed(status: int, log: Path) -> QuantizationFailed:
    if status < 0:
        ended = f"was killed by signal {-status}" + (" (the system may have run out of memory)" if status == -9 else "")
    else:
        ended = f"ended with status {status}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    tail = " | ".join(lines[-LOG_TAIL_LINES:])[-LOG_TAIL_CHARACTERS:]
    return QuantizationFailed(
        f"The quantizing process {ended}; nothing was kept. Its last words: {tail or 'none'}",
        "Read the log; when memory was short, quantize on a larger machine, then run the command again.",
        where=str(log),
    )


def _tidy(out: Path, source: Path) -> None:
    """Make the written files look like the source's: an index only where there was one, readable by all."""
    if not (source / INDEX).is_file():
        (out / INDEX).unlink(missing_ok=True)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)
