"""`candidates`: what the pipeline signed about a line's candidates, and what somebody altered in MLflow since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.columns import whole
from cli.output import JsonOption, LineArgument, say, show_json, table
from weighbridge.terminal import on_one_line, styled

if TYPE_CHECKING:
    from cli.tables import Table
    from registry.models.examine import Examined

SHORT_DIGEST = 12


def candidates(
    line: LineArgument,
    last: Annotated[int, typer.Option(min=1, help="How many to show, the newest.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show the signed verdicts of a line's candidates, and compare MLflow's tags, card, numbers and files with them.

    Exit status 12 when one is unsigned or altered.
    """
    from registry.installation import Installation
    from registry.models.examine import examine
    from weighbridge.errors import ExitStatus
    from weighbridge.line import Line
    from weighbridge.settings import use_libraries

    Line.load(line)
    installation = Installation.load()
    use_libraries(installation.settings)
    registry = installation.registry
    found = [examine(version, registry) for version in registry.candidates(line)[-last:]]
    if as_json:
        show_json([candidate.model_dump(mode="json") for candidate in found])
    elif not found:
        say(f"{line} has no candidates yet: `weighbridge release {line}`.")
    else:
        say(candidates_table(found))
        for candidate in found:
            for problem in candidate.problems:
                say(on_one_line(f"candidate {candidate.version}: {problem}"))
    if any(candidate.problems for candidate in found):
        raise typer.Exit(ExitStatus.APPROVAL)


def candidates_table(found: list[Examined]) -> Table:
    """Lay out what was signed about candidates."""
    rows = table("candidate", "scheme", "digest", "signed verdict", whole("signed (UTC)"), "as signed")
    for candidate in found:
        rows.add_row(
            str(candidate.version),
            on_one_line(candidate.scheme),
            on_one_line(candidate.digest[:SHORT_DIGEST]),
            candidate.outcome or "–",
            f"{candidate.signed_at:%Y-%m-%d %H:%M}" if candidate.signed_at else "–",
            styled("no", "red") if candidate.problems else "yes",
        )
    return rows


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(candidates)
