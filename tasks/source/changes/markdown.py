"""Render a change report as Markdown: a table, then the diffs."""

from __future__ import annotations

import re

from tasks.source.changes.change import Change, ChangeReport

MOST_DIFF_LINES = 80
LABELS = {"warn": "⚠", "info": ""}


def changes_markdown(report: ChangeReport, *, diffs: bool = True, most_rows: int = 40) -> str:
    """Render the changes as Markdown; without changes, one sentence.

    Args:
        report: from `changes_between`.
        diffs: whether diffs follow the table; a card has no space for them.
        most_rows: rows of the table; the rest are counted.
    """
    compared = f"`{report.after}` against `{report.before}`"
    unread = f" Too large to be compared: {', '.join(report.unread)}." if report.unread else ""
    if not report.changes:
        return (
            f"**Nothing changed** except the weights ({compared}): chat template, special tokens, tokenizer, "
            f"generation config, config and licence are the same.{unread}\n"
        )
    many = len(report.warnings)
    lead = (
        f"**{many} of {len(report.changes)} changes may change its answers**" if many else "**Changed, but harmless**"
    )
    lines = [f"{lead} ({compared}).{unread}", "", "| | What | Before | After |", "|:--|:--|:--|:--|"]
    for change in report.changes[:most_rows]:
        cells = (f"{change.kind}: {change.what}", change.before, change.after)
        lines.append(f"| {LABELS[change.severity]} | {' | '.join(_cell(text) for text in cells)} |")
    if (left := len(report.changes) - most_rows) > 0:
        lines += ["", f"… and {left} more."]
    if diffs:
        for change in report.changes:
            lines += _diff(change)
    return "\n".join(lines) + "\n"


def _diff(change: Change) -> list[str]:
    if not change.diff:
        return []
    shown = change.diff.splitlines()
    left = len(shown) - MOST_DIFF_LINES
    # A template may itself contain fences.
    longest = max((len(run) for run in re.findall(r"`{3,}", change.diff)), default=2)
    fence = "`" * (longest + 1)
    more = [f"… {left} more lines differ."] if left > 0 else []
    return ["", f"**{change.kind}: {change.what}**", "", f"{fence}diff", *shown[:MOST_DIFF_LINES], fence, *more]


def _cell(text: str) -> str:
    """Escape text, so that a publisher's markup is shown and not rendered."""
    plain = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>|#&!])", r"\\\1", plain)
