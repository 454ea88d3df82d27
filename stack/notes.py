"""Notes: sentences that `weighbridge status` prints beneath its tables, about what a person should know or do next.

To add one, write a function `(settings) -> list[str]` in the file that knows the matter, and name it in `NOTES`. Each
sentence says what is the matter with which line or service, and which command helps. A function

- reads files or asks a local service, within SECONDS; all functions run side by side;
- imports neither Prefect, MLflow nor torch, because `status` answers within a second;
- returns nothing where there is nothing to say, also before the first `weighbridge up` and while the stack is down.

A function that fails or is late costs its own sentences only, never the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError

from stack.worker_life import worker_notes
from tasks.serve.orphans import orphan_notes
from weighbridge.line import line_names
from weighbridge.promotion_start import promotion_notes
from weighbridge.settings import Settings

Note = Callable[[Settings], list[str]]
SECONDS = 2.0


def approvals_that_start_nothing(settings: Settings) -> list[str]:
    """Lines whose promotion nothing would start."""
    return promotion_notes(settings, line_names(settings.root / "lines"))


NOTES: tuple[Note, ...] = (worker_notes, orphan_notes, approvals_that_start_nothing)
"""In the order in which they are printed."""


def status_notes(settings: Settings, notes: Sequence[Note] | None = None) -> list[str]:
    """Collect every note about an installation.

    Args:
        settings: of the installation.
        notes: the functions to ask; by default `NOTES`.
    """
    asked = NOTES if notes is None else notes
    if not asked:
        return []
    sentences = []
    # Not as a context, which would wait for a late function.
    pool = ThreadPoolExecutor(len(asked), thread_name_prefix="note")
    answers = [(note, pool.submit(note, settings)) for note in asked]
    for note, answer in answers:
        try:
            sentences += answer.result(timeout=SECONDS)
        except LateError:
            sentences.append(f"{_name(note)}: not known, because the answer took longer than {SECONDS:.0f} s.")
        except Exception as error:
            sentences.append(f"{_name(note)}: not known ({type(error).__name__}: {error}).")
    pool.shutdown(wait=False, cancel_futures=True)
    return sentences


def _name(note: Note) -> str:
    return getattr(note, "__name__", "a note").replace("_", " ")
