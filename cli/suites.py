"""`suite import` and `suite check`: a team's questions, brought here and looked over; nothing needs the stack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cli.output import JsonOption, note, say, show_json, table

if TYPE_CHECKING:
    from tasks.evaluate.suites.lint import SuiteCheck
    from tasks.evaluate.suites.promptfoo import Imported

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}

suite = typer.Typer(help="Regression suites: import from promptfoo, check before a verdict hangs on them.")


@suite.command("import")
def import_(
    config: Annotated[Path, typer.Argument(help="promptfooconfig.yaml, or the same in JSON.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    name: Annotated[str | None, typer.Option(help="Write to eval_suites/regression/NAME.jsonl.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what would be written.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Write nothing if anything cannot be carried over.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a suite of that name.")] = False,
    graded: Annotated[
        bool, typer.Option("--graded", help="Score the weighted share of an item's assertions instead of 0 or 1.")
    ] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Longest answer; by default the configuration's own.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a promptfoo configuration's tests into a regression suite.

    What cannot be carried over is listed, each with its test and the reason. Exit status 23 when that is
    everything, or with --strict anything.
    """
    from tasks.evaluate.suites.promptfoo import import_config, write_suite
    from weighbridge.errors import ImportIncomplete

    target = _target(config, output, name)
    imported = import_config(config, graded=graded, max_tokens=max_tokens)
    failure = None
    if not imported.questions:
        failure = ImportIncomplete(
            "Nothing of the configuration can be carried over.", "Change what the list names, then import again."
        )
    elif strict and imported.lost:
        failure = ImportIncomplete(
            f"{len(imported.lost)} things cannot be carried over, and with --strict that is too many.",
            "Change them in the configuration, or import without --strict.",
        )
    written = not dry_run and failure is None and write_suite(imported, target, force=force)
    if as_json:
        show_json(
            {
                "path": str(target),
                "written": written,
                "tests": imported.tests,
                "items": [question.id for question in imported.questions],
                "lost": [one.model_dump() for one in imported.lost],
                "notes": imported.notes,
                **(failure.as_dict() if failure else {}),
            }
        )
        if failure:
            raise typer.Exit(failure.exit_status)
        return
    _show_import(imported)
    if failure:
        raise failure
    count = f"{_counted(len(imported.questions), 'item')} of {_counted(imported.tests, 'test')}"
    if imported.lost:
        say(f"Not carried over: {_counted(len(imported.lost), 'thing')}, listed above.")
    if dry_run:
        say(f"{count} would be written to {escape(str(target))}.")
    elif written:
        say(f"{count} in {escape(str(target))}.")
    else:
        say(f"{count}: {escape(str(target))} holds just these already.")
    if not dry_run:
        checked = target.stem if output is None else str(target)
        say(f"Next: [bold]weighbridge suite check {escape(checked)}[/], then name it in a line.")


@suite.command()
def check(
    named: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A suite's name, or a file of one.")],
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="A file of earlier scores; may be given again. By default all that were kept."),
    ] = None,
    margin: Annotated[float, typer.Option(min=0.0001, max=0.9999, help="The loss that a verdict is to tell.")] = 0.02,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of the verdict, one-sided.")] = 0.95,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look a suite over: broken or useless items, duplicates, imbalance, and the margin that it can decide.

    Exit status 24 when there are errors, or with --strict warnings.
    """
    from tasks.evaluate.scoring.scores import ScoreCache
    from tasks.evaluate.suites.lint import check_suite
    from weighbridge.errors import SuiteFlawed
    from weighbridge.settings import load_settings

    cache = ScoreCache.of(load_settings())
    found = check_suite(named, cache, margin=margin, confidence=confidence, scores=scores or ())
    errors, warnings = found.count("error"), found.count("warning")
    failure = None
    if errors or (strict and warnings):
        failure = SuiteFlawed(
            f"{found.suite} has {_counted(errors, 'error')} and {_counted(warnings, 'warning')}.",
            "Mend what the list names first, from its top.",
            where=str(found.path),
        )
    if as_json:
        show_json({**found.model_dump(mode="json"), **(failure.as_dict() if failure else {})})
        if failure:
            raise typer.Exit(failure.exit_status)
        return
    _show_check(found)
    if failure:
        raise failure
    say(f"{found.suite}: {_counted(found.items, 'item')}, no error, {_counted(warnings, 'warning')}.")


def _target(config: Path, output: Path | None, name: str | None) -> Path:
    from weighbridge.errors import SuiteUnknown
    from weighbridge.settings import load_settings

    if output is not None and name is not None:
        raise typer.BadParameter("give --output or --name, not both")
    if output is not None:
        return output
    # Most configurations have the same name: the folder's tells them apart.
    wanted = name or (config.resolve().parent.name if config.stem.startswith("promptfooconfig") else config.stem)
    if name is None:
        wanted = re.sub(r"[^\w-]+", "-", wanted).strip("-")
    if not re.fullmatch(r"[\w-]+", wanted):
        raise SuiteUnknown(
            f"{wanted!r} cannot be a suite's name.", "Give --name a name of letters, digits, - and _.", where="--name"
        )
    return load_settings().root / "eval_suites" / "regression" / f"{wanted}.jsonl"


def _show_import(imported: Imported) -> None:
    if imported.lost:
        shown = table("where", "not carried over", "why")
        for one in imported.lost:
            where = "config" if one.test is None else f"test {one.test}"
            shown.add_row(where, escape(one.what), escape(one.reason))
        say(shown)
    for text in imported.notes:
        note("note", text)


def _show_check(found: SuiteCheck) -> None:
    shown = table("", "where", "what", "code")
    for one in found.findings:
        shown.add_row(f"[{COLOURS[one.level]}]{one.level}[/]", escape(one.where), escape(one.what), one.code)
    say(shown)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def add_to(app: typer.Typer) -> None:
    """Make the commands known."""
    app.add_typer(suite, name="suite")
