"""`audit`: who approved, promoted and rolled back what, and whether that record is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.columns import number, short, whole
from cli.output import JsonOption, counted, say, show_json, table
from weighbridge.terminal import on_one_line, styled

if TYPE_CHECKING:
    from cli.tables import Table
    from registry.audit import Entry

SHORT_DIGEST, DIGEST_DIGITS = 12, 64
REQUEST = "mlflow."
"""What the actions of requests to MLflow begin with."""
APPROVALS = ("approve", "override")
TOLD_BY = ("state",)
"""Actions that are told by what they are about, such as `rolled back`."""

audit = typer.Typer(help="Who changed what and when, and whether that record is whole.", invoke_without_command=True)


@audit.callback()
def show(
    context: typer.Context,
    line: Annotated[str | None, typer.Option(help="Only entries of this line.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many entries to show, the newest.")] = 50,
    everything: Annotated[
        bool, typer.Option("--all", help="Also each request that changed something in MLflow.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show who did what, the newest at the end: one line an entry, shortened to fit the terminal.

    Of the requests to MLflow only approvals by *Promote model* are shown, unless --all is given. --json has all.
    """
    if context.invoked_subcommand:
        return
    from registry.installation import Installation

    entries = list(Installation.load().audit_log.entries(line))
    if as_json:
        show_json([entry.model_dump() for entry in entries[-last:]])
        return
    if not entries:
        say(f"The audit log has no entry of {line} yet." if line else "The audit log has no entry yet.")
        return
    shown = entries if everything else acts(entries)
    if shown:
        say(entries_table(shown[-last:]))
        say("`weighbridge audit show NUMBER` shows one entry whole.")
    if left_out := len(entries) - len(shown):
        say(f"{counted(left_out, 'request')} to MLflow left out; `weighbridge audit --all` shows them too.")


def acts(entries: list[Entry]) -> list[Entry]:
    """Leave out the requests to MLflow, except approvals that nobody but MLflow's server recorded."""
    recorded = {(entry.line, entry.version) for entry in entries if entry.action in APPROVALS}

    def is_act(entry: Entry) -> bool:
        if not entry.action.startswith(REQUEST):
            return True
        return _is_click(entry) and (entry.line, entry.version) not in recorded

    return [entry for entry in entries if is_act(entry)]


def entries_table(entries: list[Entry]) -> Table:
    """Lay out audit entries, each on one line, also in a terminal of 80 columns."""
    years = {entry.at[:4] for entry in entries}
    # The day and the minute are enough to find an entry; `audit show` has all.
    time, first = (f"UTC, {years.pop()}", 5) if len(years) == 1 else ("UTC", 0)
    # The requests' names are long.
    requests = any(entry.action.startswith(REQUEST) and not _is_click(entry) for entry in entries)
    kind = short if requests else whole
    rows = table(number("#"), whole(time), short("who"), kind("what"), kind("line, version"), short("why"))
    for entry in entries:
        what = entry.what[:SHORT_DIGEST] if _is_digest(entry.what) else entry.what
        why = (entry.reason, "" if entry.action in TOLD_BY else what)
        target = " ".join(filter(None, (entry.model or entry.line, str(entry.version or ""))))
        rows.add_row(
            str(entry.number),
            entry.at[first:16].replace("T", " "),
            on_one_line(entry.who),
            _act(entry),
            on_one_line(target) or "–",
            on_one_line("; ".join(filter(None, why))) or "–",
        )
    return rows


def _act(entry: Entry) -> str:
    """Say what was done in a few words."""
    if _is_click(entry):
        return "approve in MLflow"
    words = entry.what if entry.action in TOLD_BY else entry.action
    return on_one_line(words.removeprefix(REQUEST).replace("_", " "))


def _is_click(entry: Entry) -> bool:
    """True if a request copied a candidate to its line's own model, as *Promote model* does."""
    from registry.audit import COPIED

    return entry.action == COPIED and entry.model == entry.line


def _is_digest(text: str) -> bool:
    return len(text) == DIGEST_DIGITS and all(digit in "0123456789abcdef" for digit in text)


@audit.command("show")
def show_entry(
    number_: Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="The entry's number.")],
    as_json: JsonOption = False,
) -> None:
    """Show one entry whole."""
    from registry.installation import Installation
    from weighbridge.errors import OptionInvalid

    entries = list(Installation.load().audit_log.entries(None))
    if not (found := next((entry for entry in entries if entry.number == number_), None)):
        raise OptionInvalid(
            f"The audit log has no entry {number_}; it has {len(entries)}.",
            "`weighbridge audit` lists the newest entries with their numbers.",
            "NUMBER",
        )
    if as_json:
        show_json(found.model_dump())
        return
    say(entry_table(found))


def entry_table(entry: Entry) -> Table:
    """Lay out every field of an entry that says something."""
    rows = table("field", "value")
    for name, value in entry.model_dump().items():
        if value not in ("", None):
            rows.add_row(name, on_one_line(str(value)))
    return rows


@audit.command()
def verify(
    head: Annotated[str, typer.Option(help="A hash noted earlier; an entry must have it.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Find an entry that was edited, removed, added or moved, or that was noted and is gone; then exit status 10.

    The log is compared with its head as noted beside it, in MLflow, and in WEIGHBRIDGE_AUDIT_WITNESS_URL.
    """
    from registry.audit import NOTHING
    from registry.installation import Installation
    from registry.witnesses import answers_of

    installation = Installation.load()
    answers = answers_of(installation.settings)
    noted = [(answer.witness, head_) for answer in answers for head_ in answer.heads]
    last = installation.audit_log.verify(head, noted)
    found = {
        "entries": last.number if last else 0,
        "head": last.hash if last else NOTHING,
        "witnesses": [
            {"witness": answer.witness, "entry": answer.newest, "problem": answer.problem} for answer in answers
        ],
    }
    if as_json:
        show_json(found)
        return
    say(f"{found['entries']} entries, each chained to the one before. Head: {styled(found['head'], 'bold')}")
    for answer in answers:
        agrees = f"noted entry {answer.newest}, and the log has it" if answer.newest else "has noted nothing yet"
        say(f"{answer.witness} {answer.problem or agrees}")
    if len(answers) < 2:
        say("Note the head elsewhere, or set WEIGHBRIDGE_AUDIT_WITNESS_URL: whoever takes this machine has MLflow too.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(audit, name="audit")
