"""Quantize a release into the store or a folder: complete and proven, or not at all."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from registry.installation import Installation
from registry.store import Artifact
from registry.store.artifact import sync, sync_one
from tasks.quantize.calibration import calibration_digest, calibration_files, estimate_tokens
from tasks.quantize.card import copy_companions, write_card
from tasks.quantize.coverage import Coverage, check_coverage
from tasks.quantize.gguf import GgufRecipe, make_gguf_recipe
from tasks.quantize.gguf import check_coverage as check_gguf
from tasks.quantize.loading.parent import prove_loading
from tasks.quantize.methods import STREAMING, method_names
from tasks.quantize.plan.recipe import Recipe, make_recipe
from tasks.quantize.plan.resources import Resources, estimate_resources, require_memory
from tasks.quantize.process.folders import link_weights, match_source_layout, require_finite
from tasks.quantize.process.job import Job
from tasks.quantize.process.parent import run_job
from tasks.quantize.process.shards import FinishedShards
from tasks.quantize.process.staging import (
    MODEL,
    folder_identity,
    job_identity,
    prepare_staging,
    require_disk,
    resumable,
)
from tasks.quantize.published.check import require_valid_published
from tasks.quantize.record import QuantizationRecord
from tasks.schemes import Scheme, writable_scheme
from weighbridge import __version__
from weighbridge.errors import OptionInvalid, QuantizationUncovered
from weighbridge.line import CHOOSE_NOTHING, SchemeChoice
from weighbridge.settings import Settings

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Work:
    """One quantization with its inputs."""

    source: Path
    recipe: Recipe | GgufRecipe
    name: str
    """Of the release, for display."""
    commit: str
    calibration: tuple[Path, ...]
    """Files of the calibration text."""
    logs_folder: Path
    identity: str
    report: Progress

    @property
    def units(self) -> int:
        """Units of progress: one for the source, one a layer, one for the coverage check."""
        return len(self.recipe.layers) + 2


def quantize(
    installation: Installation,
    weights: Artifact,
    scheme: str,
    method: str | None = None,
    progress: Progress | None = None,
    calibration: Path | None = None,
    choice: SchemeChoice = CHOOSE_NOTHING,
    invocation: str = "",
) -> Artifact:
    """Quantize a release.

    Args:
        installation: the store of the release and of the result, and the settings.
        weights: the release as published.
        scheme: a file of `tasks/schemes/`.
        method: a file of `tasks/quantize/methods/`; the scheme's cheapest by default.
        progress: called with (units done, units in total): one for the source, one a layer, one for the coverage check.
        calibration: text for methods that calibrate; the project's own by default.
        choice: a group size or excluded layers, in place of the planned ones.
        invocation: id of the flow run, for the record.

    Returns:
        The artifact; for `bf16`, the release itself, checked if its publisher quantized it. The same release and
        versions give the same digest.

    Raises:
        SchemeUnknown: there is no such scheme.
        QuantizationUncovered: the scheme cannot cover the release, or did not cover it; nothing is kept.
        QuantizationFailed: the source is damaged, or the quantizing process failed; nothing is kept.
        QuantizationInterrupted: the process was killed; finished files are kept for the next run.
        MemoryShort: too little memory; nothing was written.
        DiskFull: before or during writing.
        ArtifactMissing: the store does not have the release.
        ArtifactDamaged, ArtifactUnsigned: the release in the store is altered, before or meanwhile; nothing is kept.
    """
    settings, store = installation.settings, installation.store
    text = calibration_files(settings, calibration)
    chosen = writable_scheme(scheme)
    if not chosen.changes_weights:
        with store.reading(weights) as (source,):
            require_valid_published(source)
        return weights
    source = store.path(weights)
    recipe = recipe_of(source, chosen, method, weights.repo, choice)
    work = _Work(
        source=source,
        recipe=recipe,
        name=weights.repo,
        commit=weights.commit,
        calibration=text,
        identity=job_identity(recipe, weights.digest + calibration_digest(recipe.method, text)),
        logs_folder=settings.logs_folder,
        report=progress or _no_report,
    )
    key = f"quantize-{weights.digest[:12]}-{scheme}-{recipe.method}"
    with resumable(store.staging(weights.line, key), store.building(weights.line, key)) as staging:
        with store.reading(weights):
            record = _build(work, staging)
        artifact = store.adopt(
            staging / MODEL,
            line=weights.line,
            scheme=scheme,
            repo=weights.repo,
            commit=weights.commit,
            facts=record.model_dump(mode="json"),
            provenance=record.provenance(weights, calibration_digest(recipe.method, text), choice, invocation),
            known_sha256=_hashes(staging, work),
        )
    work.report(work.units, work.units)
    return artifact


def quantize_folder(
    settings: Settings,
    source: Path,
    out: Path,
    scheme: str,
    method: str | None = None,
    progress: Progress | None = None,
    calibration: Path | None = None,
    choice: SchemeChoice = CHOOSE_NOTHING,
) -> QuantizationRecord:
    """Quantize a plain folder into another one, without a store or a line.

    Args:
        settings: name the folders of logs and locks, and of the project's calibration text.
        source: folder with `config.json`, safetensors files, and their companions.
        out: must not exist; it appears when everything is written and proven. Until then a hidden folder beside it has
            the work, which the same command resumes after a kill.
        scheme, method, progress, calibration, choice: as for `quantize`.

    Raises:
        OptionInvalid: `out` exists, or the scheme does not change weights.
        QuantizationUncovered, QuantizationFailed, MemoryShort, DiskFull: as for `quantize`.
    """
    chosen = writable_scheme(scheme)
    if not chosen.changes_weights:
        raise OptionInvalid(f"{scheme} does not change a release.", "Name a scheme that changes weights.", "--scheme")
    out = out.absolute()
    if out.exists():
        raise OptionInvalid(f"{out} exists already.", "Name a folder that does not exist yet.", "--out")
    text = calibration_files(settings, calibration)
    recipe = recipe_of(source, chosen, method, source.resolve().name, choice)
    work = _Work(
        source=source,
        recipe=recipe,
        name=source.resolve().name,
        commit="",
        calibration=text,
        identity=job_identity(recipe, folder_identity(source) + calibration_digest(recipe.method, text)),
        logs_folder=settings.logs_folder,
        report=progress or _no_report,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    hidden = out.parent / f".{out.name}.quantizing"
    with resumable(hidden, _lock_of(settings, out)) as staging:
        record = _build(work, staging)
        sync(staging / MODEL)
        (staging / MODEL).rename(out)
        sync_one(out.parent)
    work.report(work.units, work.units)
    return record


def recipe_of(
    source: Path, scheme: Scheme, method: str | None, name: str, choice: SchemeChoice = CHOOSE_NOTHING
) -> Recipe | GgufRecipe:
    """Make a release's recipe, for safetensors or GGUF by the scheme's format.

    Raises:
        QuantizationUncovered, QuantizationFailed: as for `make_recipe` and `make_gguf_recipe`.
        OptionInvalid: there is no such method, or it does not suit the scheme.
    """
    suitable = (*scheme.methods, *scheme.by_name)
    if method is not None and method not in suitable:
        why = f"{method} does not suit {scheme.name}" if method in method_names() else f"There is no method {method!r}"
        raise OptionInvalid(f"{why}.", f"Name one of {', '.join(suitable)}.", where="method")
    if scheme.format != "gguf":
        return make_recipe(source, scheme, method, choice)
    if choice.group_size is not None or choice.ignore:
        raise QuantizationUncovered(
            f"The recipe sets a group size or excludes layers, but {scheme.name} is llama.cpp's own mixture.",
            "Leave group_size and ignore out.",
            where=scheme.name,
        )
    return make_gguf_recipe(source, scheme, name)


def resources_of(source: Path, recipe: Recipe | GgufRecipe, calibration: Sequence[Path]) -> Resources:
    """Estimate the resources for a release: those of the recipe, and disk for the files beside the weights."""
    others = (file.stat().st_size for file in source.rglob("*") if file.is_file() and file.suffix != ".safetensors")
    return estimate_resources(recipe, companions_bytes=sum(others), text_tokens=estimate_tokens(calibration))


def _prove(recipe: Recipe | GgufRecipe, out: Path, source: Path) -> Coverage:
    """Check the written files against the recipe."""
    if isinstance(recipe, GgufRecipe):
        return check_gguf(recipe, out, source)
    return check_coverage(recipe, out, source)


def _build(work: _Work, staging: Path) -> QuantizationRecord:
    """Make the complete model in the staging folder, and prove its coverage."""
    started = time.monotonic()
    recipe, out = work.recipe, staging / MODEL
    required = resources_of(work.source, recipe, work.calibration)
    logger.info("%s as %s by %s needs %s.", work.name, recipe.scheme, recipe.method, required)
    finished_bytes = prepare_staging(staging, work.identity)
    # Of an earlier run; the quantizing process counts its layers again, in no time.
    resumed = min(work.units - 2, int(work.units * finished_bytes / recipe.predicted_bytes))
    work.report(resumed, work.units)
    require_disk(staging, required.disk_bytes - finished_bytes, f"{work.name} as {recipe.scheme}")
    require_memory(required, f"{work.name} as {recipe.scheme}")
    if recipe.method not in STREAMING:
        require_finite(work.source)
    work.report(max(1, resumed), work.units)
    job = Job(
        source=link_weights(work.source, staging / "source"),
        out=out,
        recipe=recipe,
        identity=work.identity,
        companions=work.source,
        calibration=work.calibration,
    )
    log = work.logs_folder / f"quantize-{work.identity[:12]}-{recipe.scheme}-{recipe.method}.log"
    last = run_job(
        job, staging, log, lambda layers: work.report(max(resumed, 1 + min(layers, work.units - 2)), work.units)
    )
    match_source_layout(out, work.source)
    coverage = _prove(recipe, out, work.source)
    loading = (
        prove_loading(out, work.source, recipe, log.with_suffix(".loading.log")) if isinstance(recipe, Recipe) else None
    )
    if loading and not loading.loaded:
        logger.warning("%s as %s is proven by its files alone: %s.", work.name, recipe.scheme, loading.why)
    copy_companions(work.source, out)
    versions = {**last.versions, "weighbridge": __version__}
    write_card(
        work.source,
        out,
        repo=work.name,
        commit=work.commit,
        recipe=recipe,
        coverage=coverage,
        versions=last.versions,
        calibration_tokens=last.calibration_tokens,
    )
    record = QuantizationRecord(
        recipe=recipe,
        coverage=coverage,
        loading=loading,
        versions=versions,
        seconds=round(time.monotonic() - started, 3),
        cpu_seconds=last.cpu_seconds,
        peak_rss_bytes=last.peak_rss_bytes,
        calibration_tokens=last.calibration_tokens,
        resources=required,
    )
    if record.calibration_warning:
        logger.warning("%s as %s: %s", work.name, recipe.scheme, record.calibration_warning)
    return record


def _hashes(staging: Path, work: _Work) -> dict[str, str]:
    """SHA-256 of the weight files, by the process that wrote them."""
    return {name: shard.sha256 for name, shard in FinishedShards.load(staging, work.identity).shards.items()}


def _lock_of(settings: Settings, out: Path) -> FileLock:
    """The lock for an output folder; it is in the installation, so that no file is left beside the folder."""
    folder = settings.home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"quantize-{hashlib.sha256(str(out).encode()).hexdigest()[:16]}.lock")


def _no_report(done: int, total: int) -> None:
    """Ignore progress."""
