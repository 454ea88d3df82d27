"""Bytes on their way, drawn for a person at a terminal; elsewhere nothing is drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]


@contextmanager
def byte_bar(what: str, also: Progress | None = None) -> Iterator[Progress]:
    """A bar on standard error with bytes, speed and time left, for as long as the block runs.

    Args:
        what: what is being done, at the bar's left.
        also: told the same, terminal or not.

    Yields:
        To be called with (bytes done, bytes in all). What is done at the first call was done before: a download
        that goes on counts only what comes from then on into its speed.
    """
    if not sys.stderr.isatty():
        yield also or (lambda done, total: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = None

        def progress(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task(what, total=total, completed=done)
            bar.update(task, completed=done, total=total)
            if also:
                also(done, total)

        yield progress
