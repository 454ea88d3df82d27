"""A progress bar for downloads, drawn at a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from weighbridge.terminal import console

Progress = Callable[[int, int], None]


@contextmanager
def byte_bar(what: str, also: Progress | None = None) -> Iterator[Progress]:
    """Draw a bar on standard error with bytes, speed and time left while the block runs.

    Args:
        what: the label at the bar's left.
        also: a second progress callback, called with or without a terminal.

    Yields:
        A callback that takes (bytes done, bytes in total). Bytes done at the first call count as done earlier, so a
        resumed download's speed is that of this run.
    """
    if not sys.stderr.isatty():
        yield also or (lambda done, total: None)
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, TimeRemainingColumn(), console=console(stderr=True), transient=True) as bar:
        task = None

        def progress(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task(what, total=total, completed=done)
            bar.update(task, completed=done, total=total)
            if also:
                also(done, total)

        yield progress
