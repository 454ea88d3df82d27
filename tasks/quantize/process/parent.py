"""Run the quantizing process from its parent: start it, read its progress, and name its failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.quantize.process.job import Job, Message
from tasks.quantize.process.shards import LEDGER
from weighbridge.child_process import run_child
from weighbridge.environment import allowed_environment
from weighbridge.errors import QuantizationFailed, QuantizationInterrupted

LOG_TAIL_LINES = 6
LOG_TAIL_CHARACTERS = 1500


def run_job(job: Job, staging: Path, log: Path, layers_done: Callable[[int], None]) -> Message:
    """Run a job in the quantizing process and report its progress.

    Args:
        job: of the process.
        staging: folder of the job's file and the ledger of finished files.
        log: receives the output of libraries.
        layers_done: called with the number of finished layers, those of an earlier run included.

    Returns:
        Its last message.

    Raises:
        QuantizationInterrupted: a signal ended the process.
        QuantizationFailed: the process ended with an error; the message has the log's tail.
        WeighbridgeError: the error that the process named, such as NaN in the source or a full disk.
    """
    job_file = staging / "job.json"
    job_file.write_text(job.model_dump_json())
    last: Message | None = None

    def handle_line(line: str) -> None:
        nonlocal last
        last = Message.model_validate_json(line)
        layers_done(last.layers_done)

    # The process reads local files only. A library that requests one from the Hub must fail rather than wait.
    environment = {**allowed_environment("model"), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    status = run_child("tasks.quantize.process.child", job_file, log, environment, handle_line)
    if last is not None and last.failure is not None:
        raise last.failure.error()
    if status or last is None or not last.versions:
        raise _failure(status, log, finished=(staging / LEDGER).is_file())
    return last


def _failure(status: int, log: Path, *, finished: bool) -> QuantizationFailed:
    kept = "its finished files are kept" if finished else "nothing was kept"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    tail = " | ".join(lines[-LOG_TAIL_LINES:])[-LOG_TAIL_CHARACTERS:] or "none"
    if status < 0:
        memory = " (the system may have run out of memory)" if status == -9 else ""
        return QuantizationInterrupted(
            f"The quantizing process was killed by signal {-status}{memory}; {kept}. Last log lines: {tail}",
            "Run the command again: it continues after the finished files. If memory was short, use a larger machine.",
            where=str(log),
        )
    return QuantizationFailed(
        f"The quantizing process ended with status {status}; nothing was kept. Last log lines: {tail}",
        "Read the log, and report it with the release's name if it does not name the cause.",
        where=str(log),
    )
