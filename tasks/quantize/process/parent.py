"""The quantizing process as its parent sees it: started, followed, and its end put into words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tasks.quantize.process.job import Job, Message
from tasks.quantize.process.shards import LEDGER
from weighbridge.child_process import run_child
from weighbridge.errors import QuantizationFailed, QuantizationInterrupted

LOG_TAIL_LINES = 6
LOG_TAIL_CHARACTERS = 1500


def run_job(job: Job, staging: Path, log: Path, layers_done: Callable[[int], None]) -> Message:
    """Run the quantizing process and follow it.

    Args:
        job: what it is to do.
        staging: holds the job's file and the ledger of what is finished.
        log: takes what libraries print.
        layers_done: told how many layers are done, those of an earlier run among them.

    Returns:
        Its last message.

    Raises:
        QuantizationInterrupted: a signal ended it.
        QuantizationFailed: it ended with an error; the log's tail is in the message.
        WeighbridgeError: it named what was wrong: the source's numbers, a full disk, the calibration text.
    """
    job_file = staging / "job.json"
    job_file.write_text(job.model_dump_json())
    last: Message | None = None

    def told(line: str) -> None:
        nonlocal last
        last = Message.model_validate_json(line)
        layers_done(last.layers_done)

    # It reads local files only; a library that asks the Hub for one anyway must fail rather than wait.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    status = run_child("tasks.quantize.process.child", job_file, log, environment, told)
    if last is not None and last.failure is not None:
        raise last.failure.error()
    if status or last is None or not last.versions:
        raise _ended(status, log, finished=(staging / LEDGER).is_file())
    return last


def _ended(status: int, log: Path, *, finished: bool) -> QuantizationFailed:
    kept = "its finished files are kept" if finished else "nothing was kept"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    words = " | ".join(lines[-LOG_TAIL_LINES:])[-LOG_TAIL_CHARACTERS:] or "none"
    if status < 0:
        memory = " (the system may have run out of memory)" if status == -9 else ""
        return QuantizationInterrupted(
            f"The quantizing process was killed by signal {-status}{memory}; {kept}. Its last words: {words}",
            "Run the command again: it goes on after what is finished. When memory was short, use a larger machine.",
            where=str(log),
        )
    return QuantizationFailed(
        f"The quantizing process ended with status {status}; nothing was kept. Its last words: {words}",
        "Read the log, and report it with the release's name if it does not say what to change.",
        where=str(log),
    )
