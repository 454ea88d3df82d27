"""`verdict`: decide from two models' scores on the same items whether the candidate is no worse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.columns import below, number
from cli.output import JsonOption, say, show_error, show_json_line, table
from tasks.evaluate.verdict.outcomes import OUTCOMES
from weighbridge.errors import OptionInvalid, WeighbridgeError
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from tasks.evaluate.verdict.sequential import Decision


def verdict(
    pairs: Annotated[
        list[Path],
        typer.Option(
            help="JSON lines of id, production and candidate score (0 to 1), perhaps cluster and production's margin."
            " May be given again."
        ),
    ],
    margin: Annotated[float, typer.Option(help="The largest loss that still counts as no worse.")] = 0.02,
    confidence: Annotated[float, typer.Option(help="One-sided, of `non_inferior`.")] = 0.95,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Read items in a fixed random order: for sorted files.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say whether a candidate is no worse than production, from their scores on the same items.

    Candidate scores are read one by one, and no further than needed: in the file's order, which should be random,
    or in an order by production's confidence where its margins are given. With --json one line a file.

    Exit status 0 whatever the verdicts; 2 if a file cannot be read, after all others.
    """
    if not 0 < margin < 1:
        raise OptionInvalid(f"--margin {margin:g} is not between 0 and 1.", "Name it as a share: 0.02 is two points.")
    if not 0.5 <= confidence < 1:
        raise OptionInvalid(f"--confidence {confidence:g} is not between 0.5 and 1.", "0.95 is usual.")
    from tasks.evaluate.verdict.sequential import decide, read_pairs

    judged: list[tuple[Path, Decision]] = []
    status = 0
    for path in pairs:
        try:
            decision = decide(read_pairs(path), margin=margin, confidence=confidence, shuffle=shuffle)
        except WeighbridgeError as error:
            status = status or error.exit_status
            if as_json:
                show_json_line({"file": str(path), "verdict": "invalid", "reason": error.what, **error.as_dict()})
            else:
                show_error(error)
            continue
        if as_json:
            show_json_line({"file": str(path), **as_row(decision), "margin": margin, "confidence": confidence})
        else:
            judged.append((path, decision))
    if judged:
        _show(judged)
    if status:
        raise typer.Exit(status)


def as_row(decision: Decision) -> dict[str, Any]:
    """Convert a decision for `--json`."""
    return {
        "verdict": decision.outcome,
        "items_used": decision.items_used,
        "estimate": decision.estimate,
        "interval": None if decision.low is None else [decision.low, decision.high],
        "items": decision.items,
        "reason": decision.reason,
    }


def _show(judged: list[tuple[Path, Decision]]) -> None:

    rows = table(
        "file",
        "verdict",
        number("difference (%)"),
        number("interval (%)"),
        below("items used"),
        below("why"),
    )
    for path, decision in judged:
        rows.add_row(
            str(path),
            styled(decision.outcome, OUTCOMES[decision.outcome].terminal_colour),
            "–" if decision.estimate is None else f"{100 * decision.estimate:+.2f}",
            "–"
            if decision.low is None or decision.high is None
            else f"{100 * decision.low:+.2f} to {100 * decision.high:+.2f}",
            f"{decision.items_used} of {decision.items}",
            decision.reason,
        )
    say(rows)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(verdict)
