"""`lines new`: a line's file, a stub of its suite, and its deployments, from the address of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonOption, note, say, say_plain, show_json
from weighbridge.terminal import styled
from weighbridge.units import GIB

if TYPE_CHECKING:
    from stack.new_line import NewLine
    from weighbridge.settings import Settings


def new(
    name: Annotated[str, typer.Argument(help="The line's name: at most 40 of a-z, 0-9 and -.")],
    source: Annotated[str, typer.Option(help="hf://org/model, file:///folder or s3://bucket/prefix.")],
    scheme: Annotated[
        list[str] | None, typer.Option(help="A scheme to make; may be given again. [default: int8]")
    ] = None,
    gpu: Annotated[
        list[str] | None, typer.Option(help="A GPU that you own; may be given again. [default: host]")
    ] = None,
    engine: Annotated[str, typer.Option(help="The engine that serves it; vllm on a GPU.")] = "transformers",
    context: Annotated[int, typer.Option(min=16, help="Prompt and answer together, tokens.")] = 2048,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 4,
    licence: Annotated[
        list[str] | None,
        typer.Option(help="A licence that you accept; may be given again. [default: what the source says of itself]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; show the files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a line: its file, a stub of its suite, and, while the stack is up, its deployments.

    The source is asked for its small files, never for weights. An existing line is not touched.
    """
    from stack.new_line import LineOptions, plan_line, write_line
    from weighbridge.settings import load_settings, use_libraries

    settings = load_settings()
    use_libraries(settings)
    note(name, f"reads what {source} says of itself")
    options = LineOptions(
        source=source,
        licences=tuple(licence or ()),
        schemes=tuple(scheme or ("int8",)),
        gpus=tuple(gpu or ("host",)),
        engine=engine,
        context=context,
        concurrency=concurrency,
    )
    line = plan_line(settings, name, options)
    if not dry_run:
        write_line(line)
    deployed = not dry_run and _deploy(settings)
    files = {str(line.path): line.text, **({str(line.suite): line.suite_text} if line.suite_text else {})}
    steps = _next_steps(line, deployed, settings)
    if as_json:
        show_json(
            {
                "line": name,
                "files": files,
                "written": not dry_run,
                "deployed": deployed,
                "licences": line.licences,
                "download_bytes": line.size_bytes,
                "next": steps,
            }
        )
        return
    if dry_run:
        for path, text in files.items():
            say(f"{styled(path, 'bold')} would be:")
            say_plain(text)
        return
    for path in files:
        say(f"{styled('written', 'green')}  {path}")
    licences = ", ".join(line.licences)
    say(f"Allowed from now on: licence {licences}. A release downloads {line.size_bytes / GIB:.1f} GiB.")
    if deployed:
        say(f"Prefect has release/{name}, promote/{name} and rollback/{name}.")
    say("Next:")
    for number, step in enumerate(steps, start=1):
        say(f"  {number}. {step}")


def _deploy(settings: Settings) -> bool:
    """Make a line known to a running stack; whether that was done. `up` does it otherwise."""
    from stack.known_lines import make_lines_known
    from weighbridge.errors import WeighbridgeError

    try:
        return make_lines_known(settings, note)
    except WeighbridgeError as error:
        note("deployed", f"not yet: {error.what} `weighbridge up` does it later.")
        return False


def _next_steps(line: NewLine, deployed: bool, settings: Settings) -> list[str]:
    return [
        *([f"add your own questions to {line.suite} (docs/how-to/add-a-suite.md)"] if line.suite_text else []),
        *([] if deployed else ["`weighbridge up` makes its deployments"]),
        # A file of roles is complete, so only who has it can say who reviews the line.
        *(["`weighbridge roles apply FILE` lets its reviewers see and approve it"] if settings.mlflow_auth else []),
        f"`weighbridge release {line.name} --scheme bf16` releases it as published, to compare with",
    ]
