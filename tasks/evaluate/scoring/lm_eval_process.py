"""The parent's side of the scoring process: start it when needed, and request one chunk after another."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from pydantic import BaseModel

from tasks.evaluate.scoring.lm_eval_child import MARK, Chunk, Event, Job
from tasks.evaluate.scoring.scores import ItemScore
from tasks.evaluate.suites.suite import Suite
from weighbridge.child_process import child_command, log_tail, model_environment
from weighbridge.errors import ScoringFailed
from weighbridge.private_files import UMASK

SILENCE_SECONDS = 3600.0
"""A process that prints nothing for this long hangs; loading a large model from a slow disk takes less."""
TAIL_LINES = 12
PROGRESS = re.compile(r"Running \w+ requests:.*?(\d+)/(\d+) \[")
ENDPOINTS_PROGRESS = re.compile(r"Requesting API:.*?(\d+)/(\d+) \[")
NOISE = ("fatal: not a git repository",)
"""lm-eval asks git for the commit of the working directory, which is not recorded here."""
RESUME_HINT = "Run it again: scores so far are kept."


class ScoringProcess:
    """A process that loads one model once and scores any number of suites; a context manager.

    Args:
        job: the model and its settings.
        log: file for the output of the libraries.
        api_key: of a remote model.
    """

    def __init__(self, job: Job, log: Path, api_key: str | None = None) -> None:
        self._job, self._log, self._api_key = job, log, api_key
        self._scratch = tempfile.TemporaryDirectory(prefix="weighbridge-scoring-")
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: Iterator[str] = iter(())

    def __enter__(self) -> ScoringProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            # Also when the reader stops early: nothing needs the remaining scores.
            self._process.kill()
            self._process.wait()
        self._scratch.cleanup()

    def make_ready(self) -> None:
        """Load the model unless it is loaded.

        Raises:
            ScoringFailed: the process died, hung or refused.
        """
        if self._process is not None:
            return
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_text("")
        self._process = subprocess.Popen(
            child_command("tasks.evaluate.scoring.lm_eval_child"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment(),
            umask=UMASK,
        )
        assert self._process.stdout
        self._lines = _lines(self._process.stdout)
        self._send(self._job)
        self._next_event(lambda share: None)

    def score(self, suite: Suite, ids: tuple[str, ...], report: Callable[[float], None]) -> tuple[ItemScore, ...]:
        """Score some items.

        Args:
            suite: a general suite.
            ids: ids of items, in the order of the result.
            report: called with the finished share of the requests, 0 to 1.

        Raises:
            ScoringFailed: the process died, hung or refused.
        """
        self.make_ready()
        self._send(Chunk(suite=suite, ids=ids))
        return self._next_event(report).items

    def _send(self, message: BaseModel) -> None:
        assert self._process and self._process.stdin
        # The pipe of a dead process is broken; its exit status and log give the reason.
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{message.model_dump_json()}\n".encode())
            self._process.stdin.flush()

    def _next_event(self, report: Callable[[float], None]) -> Event:
        assert self._process
        refused = ""
        with self._log.open("a") as log:
            for line in self._lines:
                if line.startswith(MARK):
                    event = Event.model_validate_json(line.removeprefix(MARK))
                    if event.kind != "refused":
                        return event
                    refused = event.text
                elif match := PROGRESS.search(line) or ENDPOINTS_PROGRESS.search(line):
                    report(int(match[1]) / max(int(match[2]), 1))
                elif not line.startswith(NOISE):
                    log.write(line + "\n")
                    log.flush()
        raise _failure(refused, self._process.wait(), self._log)

    def _environment(self) -> dict[str, str]:
        """Environment of the process: a scratch cache, and the endpoint's key if there is one."""
        return {
            **model_environment(),
            "PYTHONUNBUFFERED": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(Path(self._scratch.name) / "datasets"),
            **({"OPENAI_API_KEY": self._api_key} if self._api_key else {}),
        }


def _failure(refused: str, status: int, log: Path) -> ScoringFailed:
    if refused:
        return ScoringFailed(refused, "Check the model and the suite; there is no verdict.", where=str(log))
    if status < 0:
        return ScoringFailed(
            f"The scoring process was killed by signal {-status}, often because memory ran out.",
            RESUME_HINT,
            where=str(log),
        )
    tail = log_tail(log, TAIL_LINES)
    return ScoringFailed(f"The scoring process ended with status {status}:\n{tail}\n", RESUME_HINT, where=str(log))


def _lines(pipe: IO[bytes]) -> Iterator[str]:
    """Yield lines as they arrive; a progress bar's carriage return ends a line too.

    Raises:
        ScoringFailed: nothing arrived for SILENCE_SECONDS.
    """
    unfinished = b""
    while True:
        if not select.select([pipe], [], [], SILENCE_SECONDS)[0]:
            raise ScoringFailed(
                f"The scoring process was silent for {SILENCE_SECONDS / 60:.0f} minutes and was ended.",
                f"Check the machine's load and disk. {RESUME_HINT}",
            )
        block = os.read(pipe.fileno(), 65536)
        *lines, unfinished = (unfinished + block).replace(b"\r", b"\n").split(b"\n")
        yield from (line.decode(errors="replace") for line in lines if line.strip())
        if not block:
            if unfinished.strip():
                yield unfinished.decode(errors="replace")
            return
