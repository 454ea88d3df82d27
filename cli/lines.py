"""`lines`: what is configured, and every mistake in it; nothing here needs the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.columns import below, number
from cli.new_line import new
from cli.output import JsonOption, say, say_plain, say_wrapped, show_json, table
from cli.retire_line import retire
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weighbridge.errors import WeighbridgeError
    from weighbridge.line import Line
    from weighbridge.settings import Settings


lines = typer.Typer(
    help="Lines: list and check them, all mistakes at once; make one, and retire one.", invoke_without_command=True
)


@lines.callback()
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the lines and check each one's file. Exit status 2 when a file has a mistake; all of them are shown."""
    if context.invoked_subcommand is None:
        _list(as_json)


lines.command()(new)
lines.command()(retire)


@lines.command()
def deployments() -> None:
    """Print every deployment as a file for `prefect deploy --all --prefect-file`, for a Prefect server of your own."""
    from stack.line_deployments import whole_document
    from weighbridge.settings import load_settings

    say_plain(whole_document(load_settings().root).removesuffix("\n"))


@lines.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="Lines. [default: all]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check some lines, as `weighbridge lines` checks all. Exit status 2 when a file has a mistake."""
    _list(as_json, names)


def _list(as_json: bool, names: Sequence[str] | None = None) -> None:
    from stack.deploy import undeployed_lines
    from stack.suite_stub import stub_notes
    from tasks.serve.orphans import orphans
    from weighbridge.line import line_names
    from weighbridge.settings import load_settings

    settings = load_settings()
    loaded: list[Line] = []
    problems: list[WeighbridgeError] = []
    for name in names or line_names():
        line, found = _checked(name, settings)
        loaded += [line] if line else []
        problems += found
    shown = [line.name for line in loaded]
    undeployed = [name for name in undeployed_lines(settings) if name in shown]
    lost = [] if names else orphans(settings)
    missing = _engines_not_installed(loaded)
    notes = stub_notes(loaded, settings)
    if as_json:
        show_json(
            {
                "lines": [line.model_dump() for line in loaded],
                "problems": [problem.as_dict() for problem in problems],
                "undeployed": undeployed,
                "engines_not_installed": {line: error.as_dict() for line, error in missing.items()},
                "orphans": [orphan.model_dump() for orphan in lost],
                "notes": notes,
            }
        )
    else:
        _show(loaded, problems)
        for name in undeployed:
            say_wrapped(f"{name}: Prefect does not have its deployments as its file says; `weighbridge up` sends them.")
        for name, error in missing.items():
            what = f"{name}: on this machine no release would be weighed or served."
            say_wrapped(f"{what} {error.what} {error.next_step}")
        for sentence in (*(orphan.sentence for orphan in lost), *notes):
            say_wrapped(sentence)
    if problems:
        raise typer.Exit(problems[0].exit_status)


def _checked(name: str, settings: Settings) -> tuple[Line | None, list[WeighbridgeError]]:
    """A line, and every mistake in its file; of a file whose form has mistakes, the unknown names too."""
    from tasks.evaluate.check_line import check_line, check_names
    from weighbridge.documents import read_yaml
    from weighbridge.errors import DocumentInvalid, LineInvalid, LineUnknown
    from weighbridge.line import Line

    try:
        line = Line.load(name)
    except LineUnknown as error:
        return None, [error]
    except LineInvalid as error:
        try:
            fields = read_yaml(settings.root / "lines" / f"{name}.yaml")
        except DocumentInvalid:
            return None, [error]
        return None, [error, *check_names(name, fields, settings)]
    return line, list(check_line(line, settings))


def _engines_not_installed(lines: list[Line]) -> dict[str, WeighbridgeError]:
    """Lines whose engine this machine has not: no mistake of the file, which may be meant for another machine."""
    from tasks.engines import engine, engine_names
    from weighbridge.errors import EngineFailed, PluginInvalid

    found: dict[str, WeighbridgeError] = {}
    for name in {line.engine.name for line in lines} & set(engine_names()):
        try:
            engine(name).version()
        except EngineFailed as error:
            found[name] = error
        except PluginInvalid:
            continue  # told among the mistakes
    return {line.name: found[line.engine.name] for line in lines if line.engine.name in found}


def _show(loaded: list[Line], problems: list[WeighbridgeError]) -> None:
    rows = table("line", below("source"), "schemes", "runs on", "engine", number("suites"))
    for line in loaded:
        rows.add_row(
            line.name,
            line.source,
            ", ".join(line.schemes),
            ", ".join(line.target.gpus),
            line.engine.name,
            str(len(line.suites)),
        )
    say(rows)
    if not problems:
        say_wrapped("No mistake in these files: every name in them exists, and every suite can decide its margin.")
        return
    mistakes = table("file", "mistake", "next")
    for problem in problems:
        mistakes.add_row(problem.where, styled(problem.what, "red"), problem.next_step)
    say(mistakes, error=True)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.add_typer(lines, name="lines")
