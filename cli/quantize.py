"""`quantize`: a model in fewer bits, from a plain folder or a line's download; nothing here needs the stack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import complete
from cli.columns import below
from cli.output import INTERRUPTED, JsonOption, bars, note, say, show_json, table
from weighbridge.terminal import styled
from weighbridge.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cli.tables import Table
    from registry.store import Artifact
    from tasks.quantize import QuantizationRecord, Resources
    from tasks.quantize.gguf import GgufRecipe
    from tasks.quantize.plan.recipe import Recipe
    from tasks.quantize.plan.targets import Ignored
    from weighbridge.line import SchemeChoice


def quantize(
    source: Annotated[
        str, typer.Argument(metavar="DIR|LINE", help="A folder (or file:///…), or a line with a download.")
    ],
    scheme: Annotated[
        str,
        typer.Option(
            help="int8, int8-w8a16, int4, int4-asym, fp8, fp8-block, …",
            autocompletion=complete.schemes,
        ),
    ],
    method: Annotated[str | None, typer.Option(help="Quantization method. [default: the cheapest]")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder that does not exist yet.", show_default=False)] = None,
    calibration: Annotated[Path | None, typer.Option(help="Text for methods that calibrate: .txt or .jsonl.")] = None,
    recipe_file: Annotated[
        Path | None, typer.Option("--recipe", help="Your own choices in YAML: methods, group_size, ignore.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and the resources that it needs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Quantize a model, prove that it happened, and write it whole or not at all.

    For a line without --out the result goes into the store. After a kill the same command continues after the files
    that are finished.
    """
    if not as_json:
        # Before imports that take seconds.
        note("quantize", f"{source} as {scheme}: plans its layers.")
    from tasks.quantize import quantize_folder
    from tasks.quantize import scheme as scheme_of
    from tasks.quantize.calibration import calibration_files
    from tasks.quantize.run import recipe_of, resources_of
    from weighbridge.errors import OptionInvalid
    from weighbridge.settings import load_settings, use_libraries

    settings = load_settings()
    use_libraries(settings)
    folder, artifact = _resolve(source)
    chosen = scheme_of(scheme)
    if not chosen.changes_weights:
        _show_published(folder, scheme, as_json)
        return
    if out is None and artifact is None and not dry_run:
        raise OptionInvalid("No folder is named for the result.", "Name a new folder by --out.", "--out")
    choice = _choice(recipe_file)
    method = method or (choice.methods[0] if choice.methods else None)
    recipe = recipe_of(folder, chosen, method, artifact.repo if artifact else folder.resolve().name, choice)
    required = resources_of(folder, recipe, calibration_files(settings, calibration))
    if dry_run:
        _show_plan(recipe, required, as_json)
        return
    if not as_json:
        note("needs", f"{required}; {len(recipe.layers)} layers by {recipe.method}.")
    digest = ""
    with bars() as progress_bars:
        task = progress_bars.add_task(f"{scheme} by {recipe.method}", total=None)

        def progress(done: int, total: int) -> None:
            progress_bars.update(task, completed=done, total=total)

        try:
            if out is None and artifact is not None:
                record, digest = _into_store(artifact, scheme, method, calibration, progress, choice)
            else:
                assert out is not None
                record = quantize_folder(settings, folder, out, scheme, method, progress, calibration, choice)
        except KeyboardInterrupt:
            note("quantize", "Stopped. Finished files are kept: the same command continues from there.")
            raise typer.Exit(INTERRUPTED) from None
    _show_record(record, digest or str(out), as_json)


def _resolve(source: str) -> tuple[Path, Artifact | None]:
    """Return the folder to quantize, and its artifact if a line was named."""
    from registry.installation import Installation
    from tasks.source.local_folder import folder_at
    from weighbridge.errors import ArtifactMissing, LineUnknown
    from weighbridge.line import line_names

    folder = folder_at(source)
    if folder.is_dir():
        return folder, None
    if source not in line_names():
        raise LineUnknown(
            f"{source!r} is neither a folder nor a line; lines: {', '.join(line_names())}.",
            "Name a folder with config.json and safetensors files, or one of these lines.",
        )
    store = Installation.load().store
    manifests = [store.manifest(*name) for name in store.listed(source)]
    downloads = [manifest.artifact for manifest in manifests if manifest.facts.get("made_by") == "download"]
    if not downloads:
        raise ArtifactMissing(
            f"The store holds no download of {source}.",
            f"Run `weighbridge release {source}`, or name a folder.",
            where=str(store.folder),
        )
    newest = max(downloads, key=store.created_at)
    return store.path(newest), newest


def _choice(path: Path | None) -> SchemeChoice:
    """Read a recipe file; its fields are those of a line's `quantize.schemes.<scheme>`."""
    from pydantic import ValidationError

    from weighbridge.documents import read_yaml
    from weighbridge.errors import DocumentInvalid, OptionInvalid
    from weighbridge.line import SchemeChoice

    if path is None:
        return SchemeChoice()
    try:
        return SchemeChoice.model_validate(read_yaml(path) or {})
    except (DocumentInvalid, ValidationError) as error:
        raise OptionInvalid(
            f"{path} is no recipe: {' '.join(str(error).split())}.",
            "Write YAML with methods, group_size or ignore; `docs/how-to/write-a-line.md` has one.",
            "--recipe",
        ) from None


def _into_store(
    artifact: Artifact,
    scheme: str,
    method: str | None,
    calibration: Path | None,
    progress: Callable[[int, int], None],
    choice: SchemeChoice,
) -> tuple[QuantizationRecord, str]:
    from registry.installation import Installation
    from tasks.quantize import quantization_record
    from tasks.quantize import quantize as into_store

    installation = Installation.load()
    quantized = into_store(
        installation, artifact, scheme, method, progress=progress, calibration=calibration, choice=choice
    )
    record = quantization_record(quantized, installation.store)
    assert record is not None
    return record, quantized.uri


def _show_published(folder: Path, scheme: str, as_json: bool) -> None:
    """Check and show the published weights; the scheme changes nothing."""
    from tasks.quantize import check_published

    published = check_published(folder)
    if as_json:
        show_json({"scheme": scheme, "published": published.model_dump() if published else None})
    elif published is None:
        say(f"{scheme} is the model as published: nothing to do.")
    elif not published.checked:
        say(f"Quantized by {published.method} as published; its files cannot be checked here.")
    else:
        say(
            f"Quantized by {published.method} as published, {published.bits} bits: "
            f"{published.layers} layers whole, {published.share_of_linear_bytes:.1%} of Linear bytes. Nothing to do."
        )


def _show_plan(recipe: Recipe | GgufRecipe, required: Resources, as_json: bool) -> None:
    from tasks.quantize.plan.resources import available_bytes

    share = sum(layer.source_bytes for layer in recipe.layers) / recipe.linear_bytes
    if as_json:
        show_json(
            {
                "recipe": recipe.model_dump(mode="json"),
                "share_of_linear_bytes": share,
                "predicted_bytes": recipe.predicted_bytes,
                "needs": required.model_dump(),
                "available_memory_bytes": available_bytes(),
            }
        )
        return
    groups = f", groups of {recipe.group_size}" if recipe.group_size else ""
    say(
        f"{styled(recipe.scheme, 'bold')} by {recipe.method}{groups}: {len(recipe.layers)} layers, {share:.1%} of "
        "Linear bytes"
    )
    if recipe.ignored:
        say(ignored_table(recipe.ignored))
    say(
        f"Weights: {recipe.predicted_bytes / GIB:.2f} GiB. Needs {required}; "
        f"{available_bytes() / GIB:.1f} GiB are free."
    )


def ignored_table(layers: Iterable[Ignored]) -> Table:
    """Lay out the layers that are not quantized."""
    rows = table("not quantized", below("reason"))
    for layer in layers:
        rows.add_row(layer.name, layer.reason)
    return rows


def _show_record(record: QuantizationRecord, place: str, as_json: bool) -> None:
    if as_json:
        show_json({"out": place, **record.model_dump(mode="json")})
        return
    coverage = record.coverage
    say(
        f"{styled(place, 'bold')}: {coverage.found} of {coverage.planned} layers, "
        f"{coverage.share_of_linear_bytes:.1%} of Linear bytes, {coverage.written_bytes / GIB:.2f} GiB; "
        f"{record.seconds:.0f} s, {record.cpu_seconds:.0f} CPU-s, {record.peak_rss_bytes / GIB:.2f} GiB of memory."
    )
    if record.calibration_warning:
        note("quantize", record.calibration_warning)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(quantize)
