"""`suite import` and `suite check`: import and check regression suites; nothing here needs the stack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.columns import below, whole
from cli.output import JsonOption, note, say, show_json, table
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from tasks.evaluate.suites.lint import SuiteCheck
    from tasks.evaluate.suites.promptfoo import Imported

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}

suite = typer.Typer(help="Regression suites: import from promptfoo, check before a verdict depends on them.")


@suite.command("import")
def import_(
    config: Annotated[Path, typer.Argument(help="promptfooconfig.yaml, or the same in JSON.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    name: Annotated[str | None, typer.Option(help="Write to eval_suites/regression/NAME.jsonl.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what would be written.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Write nothing if anything cannot be imported.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a suite of that name.")] = False,
    graded: Annotated[
        bool, typer.Option("--graded", help="Score the weighted share of an item's assertions instead of 0 or 1.")
    ] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Longest answer; by default the configuration's own.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import the tests of a promptfoo configuration as a regression suite.

    Whatever cannot be imported is listed, each part with its test and the reason. Exit status 23 if that is everything,
    or with --strict anything.
    """
    from tasks.evaluate.suites.promptfoo import import_config, write_suite
    from weighbridge.errors import ImportIncomplete

    target = _target(config, output, name)
    imported = import_config(config, graded=graded, max_tokens=max_tokens)
    failure = None
    if not imported.questions:
        failure = ImportIncomplete(
            "No test of the configuration can be imported.", "Change what the list names, then import again."
        )
    elif strict and imported.lost:
        failure = ImportIncomplete(
            f"{_counted(len(imported.lost), 'thing')} cannot be imported, and --strict allows none.",
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
                "lost": [lost.model_dump() for lost in imported.lost],
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
        say(f"Not imported: {_counted(len(imported.lost), 'thing')}, listed above.")
    if dry_run:
        say(f"{count} would be written to {target!s}.")
    elif written:
        say(f"{count} in {target!s}.")
    else:
        say(f"{count}: {target!s} has exactly these already.")
    if not dry_run:
        suite_name = target.stem if output is None else str(target)
        say(f"Next: {styled(f'weighbridge suite check {suite_name}', 'bold')}, then name it in a line.")


@suite.command()
def check(
    named: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A suite's name or file.")],
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="A file of earlier scores; may be given again. [default: all that are kept]"),
    ] = None,
    margin: Annotated[float, typer.Option(min=0.0001, max=0.9999, help="The loss that a verdict must detect.")] = 0.02,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of the verdict, one-sided.")] = 0.95,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a suite: broken or useless items, duplicates, imbalance, and the margin that it can decide.

    Exit status 24 if there are errors, or with --strict warnings.
    """
    from tasks.evaluate.scoring.scores import ScoreCache
    from tasks.evaluate.suites.lint import check_suite
    from weighbridge.errors import SuiteFlawed
    from weighbridge.settings import load_settings

    cache = ScoreCache.of(load_settings())
    checked = check_suite(named, cache, margin=margin, confidence=confidence, scores=scores or ())
    errors, warnings = checked.count("error"), checked.count("warning")
    failure = None
    if errors or (strict and warnings):
        failure = SuiteFlawed(
            f"{checked.suite} has {_counted(errors, 'error')} and {_counted(warnings, 'warning')}.",
            "Fix the findings, starting at the top of the list.",
            where=str(checked.path),
        )
    if as_json:
        show_json({**checked.model_dump(mode="json"), **(failure.as_dict() if failure else {})})
        if failure:
            raise typer.Exit(failure.exit_status)
        return
    _show_check(checked)
    if failure:
        raise failure
    say(f"{checked.suite}: {_counted(checked.items, 'item')}, no error, {_counted(warnings, 'warning')}.")


def _target(config: Path, output: Path | None, name: str | None) -> Path:
    from weighbridge.errors import SuiteUnknown
    from weighbridge.settings import load_settings

    if output is not None and name is not None:
        raise typer.BadParameter("give --output or --name, not both")
    if output is not None:
        return output
    # Most configuration files have the same name; the folder's name tells them apart.
    suite_name = name or (config.resolve().parent.name if config.stem.startswith("promptfooconfig") else config.stem)
    if name is None:
        suite_name = re.sub(r"[^\w-]+", "-", suite_name).strip("-")
    if not re.fullmatch(r"[\w-]+", suite_name):
        raise SuiteUnknown(
            f"{suite_name!r} cannot be a suite's name.",
            "Give --name a name of letters, digits, - and _.",
            where="--name",
        )
    return load_settings().root / "eval_suites" / "regression" / f"{suite_name}.jsonl"


def _show_import(imported: Imported) -> None:
    if imported.lost:
        rows = table(whole("where"), "not imported", below("reason"))
        for lost in imported.lost:
            where = "config" if lost.test is None else f"test {lost.test}"
            rows.add_row(where, lost.what, lost.reason)
        say(rows)
    for text in imported.notes:
        note("note", text)


def _show_check(checked: SuiteCheck) -> None:
    rows = table("level", "where", below("what"), "code")
    for finding in checked.findings:
        rows.add_row(styled(finding.level, COLOURS[finding.level]), finding.where, finding.what, finding.code)
    say(rows)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(suite, name="suite")
