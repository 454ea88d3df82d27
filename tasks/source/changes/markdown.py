"""The changes for a person: a table, and each diff in full or in part."""

from __future__ import annotations

import re

from tasks.source.changes.change import Change, ChangeReport

MOST_DIFF_LINES = 80
LABELS = {"warn": "⚠", "info": ""}


def changes_markdown(report: ChangeReport, *, diffs: bool = True, most_rows: int = 40) -> str:
    """The changes as Markdown; says so where nothing changed.

    Args:
        report: from `changes_between`.
        diffs: whether diffs follow the table; a card has no room for them.
        most_rows: rows of the table; the rest are counted.
    """
    compared = f"`{report.after}` against `{report.before}`"
    unread = f" Too large to be compared: {', '.join(report.unread)}." if report.unread else ""
    if not report.changes:
        return (
            f"**Nothing changed** beside the weights ({compared}): chat template, special tokens, tokenizer, "
            f"generation config, config and licence are the same.{unread}\n"
        )
    many = len(report.warnings)
    lead = f"**{many} of {len(report.changes)} changes may move its answers**" if many else "**Changed, but harmless**"
    lines = [f"{lead} ({compared}).{unread}", "", "| | What | Before | After |", "|:--|:--|:--|:--|"]
    for one in report.changes[:most_rows]:
        cells = (f"{one.kind}: {one.what}", one.before, one.after)
        lines.append(f"| {LABELS[one.severity]} | {' | '.join(_cell(text) for text in cells)} |")
    if (left := len(report.changes) - most_rows) > 0:
        lines += ["", f"… and {left} more."]
    if diffs:
        for one in report.changes:
            lines += _diff(one)
    return "\n".join(lines) + "\n"


def _diff(change: Change) -> list[str]:
    if not change.diff:
        return []
    shown = change.diff.splitlines()
    left = len(shown) - MOST_DIFF_LINES
    # A template may hold fences of its own.
    longest = max((len(run) for run in re.findall(r"`{3,}", change.diff)), default=2)
    fence = "`" * (longest + 1)
    more = [f"… {left} more lines differ."] if left > 0 else []
    return ["", f"**{change.kind}: {change.what}**", "", f"{fence}diff", *shown[:MOST_DIFF_LINES], fence, *more]


def _cell(text: str) -> str:
    """Text that cannot leave its cell: what a publisher wrote is shown, never obeyed."""
    plain = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>|#&!])", r"\\\1", plain)
