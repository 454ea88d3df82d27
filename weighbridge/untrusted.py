"""Run a function on what a publisher wrote, in a child process with limits of time, memory and output.

A sandbox of the language is no limit: Jinja's refuses `__class__`, and loops and multiplies texts for ever. The child
knows no secret (its environment holds none), writes no file, and is killed at the limit. One child serves many calls,
since its start (some 30 ms, and the function's imports) is most of what a call costs:

    with Sandbox(Limits(seconds=5)) as sandbox:
        problems = sandbox.call(probe, template)     # or Unfinished, whose sentence says why

Functions are module-level ones. Arguments and results are JSON.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from weighbridge import errors
from weighbridge.errors import WeighbridgeError

Outcome = Literal["time", "memory", "output", "crash", "raised"]
MIB = 2**20
READ_BYTES = 2**16
START_SECONDS = 30.0
"""For the child's start and its imports, on a busy machine."""


class Limits(NamedTuple):
    """What one call may use."""

    seconds: float = 5.0
    """Of the clock."""
    memory_bytes: int = 512 * MIB
    """Of the child's own data, its interpreter included."""
    output_bytes: int = 8 * MIB
    """Of the result as JSON."""


class Unfinished(Exception):
    """A call that gave no result: it exceeded a limit, crashed, or raised an error without a name."""

    def __init__(self, outcome: Outcome, sentence: str) -> None:
        super().__init__(outcome, sentence)
        self.outcome, self.sentence = outcome, sentence

    def __str__(self) -> str:
        return self.sentence


class Sandbox:
    """A child process for calls, started at the first one and again after each that was killed; a context manager."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the child.

        Args:
            function: At the top level of a module that may be imported there.
            arguments: JSON values.

        Returns:
            Its result, as JSON gives it back: tuples have become lists.

        Raises:
            Unfinished: It took too long, too much memory, gave too much, crashed, or raised an error without a name.
            WeighbridgeError: The named error that it raised.
        """
        question = {"function": f"{function.__module__}:{function.__qualname__}", "arguments": arguments}
        if self._child is None or self._child.poll() is not None:
            self._start()
        try:
            answer = json.loads(self._exchange(json.dumps(question).encode() + b"\n", self._limits.seconds))
        except BaseException:
            self._end()
            raise
        if "error" in answer:
            kind: type[WeighbridgeError] = getattr(errors, answer["error"])
            raise kind(answer["what"], answer["next"], answer["where"])
        if "raised" in answer:
            if answer["raised"] == "memory":
                self._end()
                self._refuse("memory")
            raise Unfinished("raised", answer["text"])
        return answer["result"]

    def _start(self) -> None:
        self._end()
        root = str(Path(__file__).parents[1])
        paths = [root, *(path for path in sys.path if path and path != root)]
        # -I -S: neither the user's site nor the .pth files of this one run in the child, and it starts 50 ms sooner.
        code = "import json, sys; sys.path += json.loads(sys.argv[1]); from weighbridge.untrusted import serve; serve()"
        limits = json.dumps([self._limits.memory_bytes, self._limits.seconds])
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code, json.dumps(paths), limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            cwd=tempfile.gettempdir(),
            start_new_session=True,
        )
        assert self._child.stdout and self._child.stdin
        os.set_blocking(self._child.stdin.fileno(), False)
        if self._exchange(b"", START_SECONDS) != b"ready":
            self._refuse("crash")

    def _exchange(self, question: bytes, seconds: float) -> bytes:
        """Send a line and receive one, both within the time."""
        child, answer, deadline = self._child, b"", time.monotonic() + seconds
        assert child and child.stdin and child.stdout
        rest, out = memoryview(question), child.stdout.fileno()
        while not answer.endswith(b"\n"):
            left = deadline - time.monotonic()
            writing = [child.stdin.fileno()] if rest else []
            readable, writable, _ = select.select([out], writing, [], max(left, 0))
            if writable:
                try:
                    rest = rest[os.write(child.stdin.fileno(), rest[:READ_BYTES]) :]
                except BrokenPipeError:
                    rest = memoryview(b"")
            if readable:
                block = os.read(out, READ_BYTES)
                if not block:
                    self._refuse(_outcome_of(child.wait()))
                answer += block
                if len(answer) > self._limits.output_bytes:
                    self._refuse("output")
            if left <= 0:
                self._refuse("time")
        return answer[:-1]

    def _refuse(self, outcome: Outcome) -> NoReturn:
        limits = self._limits
        sentences: dict[Outcome, str] = {
            "time": f"it takes more than {limits.seconds:g} s",
            "memory": f"it takes more than {limits.memory_bytes // MIB:,} MiB of memory",
            "output": f"it gives more than {limits.output_bytes / MIB:g} MiB",
            "crash": "it ends the process that reads it",
        }
        raise Unfinished(outcome, sentences[outcome])

    def _end(self) -> None:
        if child := self._child:
            self._child = None
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()


def call(function: Callable[..., Any], *arguments: Any, limits: Limits | None = None) -> Any:
    """Call a function once in a child of its own; as `Sandbox.call`."""
    with Sandbox(limits) as sandbox:
        return sandbox.call(function, *arguments)


def _environment() -> dict[str, str]:
    """Nothing of the caller's but the path: no token, no key, no proxy."""
    return {
        "PATH": os.defpath,
        "HOME": tempfile.gettempdir(),
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _outcome_of(status: int) -> Outcome:
    return "time" if status == -signal.SIGXCPU else "memory" if status == -signal.SIGKILL else "crash"


# --- in the child ------------------------------------------------------------------------


def serve() -> None:
    """Answer calls from standard input until it ends; the child's main function."""
    memory_bytes, seconds = json.loads(sys.argv[2])
    # What a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    # Libraries ask for its name when they are imported. Python would look for one by writing into it.
    tempfile.tempdir = tempfile.tempdir or str(Path.cwd())
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_DATA, memory_bytes)
    answers.write(b"ready\n")
    for line in sys.stdin.buffer:
        used = sum(os.times()[:2])
        # The caller watches the clock; this ends a child whose caller was killed.
        _limit(resource.RLIMIT_CPU, int(used + 2 * seconds) + 2)
        answer = _answer(json.loads(line))
        while answer:
            answer = answer[answers.write(answer) :]


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _answer(question: dict[str, Any]) -> bytes:
    module, _, name = question["function"].partition(":")
    try:
        answer: dict[str, Any] = {"result": getattr(import_module(module), name)(*question["arguments"])}
        return json.dumps(answer).encode() + b"\n"
    except MemoryError:
        answer = {"raised": "memory"}
    except WeighbridgeError as error:
        answer = error.as_dict()
    except Exception as error:  # the caller's business
        answer = {"raised": "error", "text": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return json.dumps(answer).encode() + b"\n"
